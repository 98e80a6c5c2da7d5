#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Channels-last images `[images, height, width, channels]`, one window over each channel of its own.
struct DepthwiseShape {
  std::int64_t images = 0, channels = 0, height = 0, width = 0, result_height = 0, result_width = 0;
  std::int64_t taps = 0;  ///< along each side of the window
  std::int64_t stride = 0, pad_above = 0, pad_left = 0;
};

/// What becomes of a channel's sum: `clamp(round(sum * scale[c] + bias[c]), low, high)`.
struct DepthwiseEpilogue {
  std::vector<float> scale, bias;  ///< by channel
  std::uint8_t low = 0, high = 255;
};

/// A depthwise convolution of u8 by s8 into u8 in half the time of oneDNN's: the taps of a column are interleaved in
/// registers, so that `vpdpbusd` multiplies four of them at once (oneDNN 3.2 multiplies one), and columns are kept for
/// the next results.
class DepthwiseKernel {
 public:
  /// Whether there is one for this window and this processor.
  [[nodiscard]] static bool computes(const DepthwiseShape& shape);
  /// The order in which the kernel reads weights. @param weights s8 `[channels, ..., taps, taps]`, contiguous
  [[nodiscard]] static at::Tensor pack(const at::Tensor& weights);

  /// @param weights as `pack` orders them
  /// @param padding what lies beyond an image's border
  DepthwiseKernel(const DepthwiseShape& shape, at::Tensor weights, const DepthwiseEpilogue& epilogue,
                  std::uint8_t padding);
  void run(const std::uint8_t* source, std::uint8_t* result) const;

 private:
  DepthwiseShape shape_;
  at::Tensor weights_;
  std::vector<float> scale_, bias_;  // in the order of `pack`
  std::uint8_t padding_, low_, high_;
};

PARE_NAMESPACE_END
