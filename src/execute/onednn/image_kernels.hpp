#pragma once

#include <cstdint>
#include <optional>

#include "execute/onednn/program.hpp"

PARE_NAMESPACE_BEGIN

/// Images as they lie in memory.
struct ImageShape {
  std::int64_t images = 0, channels = 0, points = 0;
  std::int64_t image_stride = 0, channel_stride = 0, point_stride = 0;  ///< in elements
};

/// Most channels that `quantize_image` interleaves.
constexpr std::int64_t kMostImageChannels = 4;

/// Float planes `[images, channels, points]` onto a grid, interleaved: `[images, points, channels]`. What the first
/// convolution of an int8 network reads; oneDNN's reorder takes three times as long where channels are few.
/// @param channels 1 to `kMostImageChannels`
void quantize_image(const float* source, std::uint8_t* result, std::int64_t images, std::int64_t channels,
                    std::int64_t points, const Quantization& grid);

/// Floats onto a grid where they lie: rounded, then shifted by the zero point, which is how the simulation rounds.
/// (oneDNN's reorder shifts first, so that a number next to a half may be rounded to the other side.)
void quantize_floats(const float* source, std::uint8_t* result, std::int64_t count, const Quantization& grid);

/// The mean of each channel over an image's points: `[images, channels]`, onto the grid `write` or as float.
/// Sums of integers are exact.
/// @param type u8, s8 or f32
void mean_of_points(const char* source, dnnl::memory::data_type type, char* result, const ImageShape& shape,
                    const std::optional<Quantization>& read, const std::optional<Quantization>& write);

PARE_NAMESPACE_END
