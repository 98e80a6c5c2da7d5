#include "execute/onednn/image_kernels.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/round_to_even.hpp"
#include "core/vector_width.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::int64_t kTile = 256;            // points or channels worked on at a time: fits the first cache
constexpr std::int64_t kPointsOfATask = 4096;  // worth handing to another thread

// `low` and `high` are the grid's ends less its zero point.
PARE_EACH_VECTOR_WIDTH void quantize_row(const float* from, std::uint8_t* to, std::int64_t count, float inverse,
                                         float low, float high, int zero_point) {
  for (std::int64_t i = 0; i < count; ++i) {
    float value = from[i] * inverse;
    value = value > low ? value : low;
    value = value < high ? value : high;
    value = (value + kRoundsToEven) - kRoundsToEven;
    to[i] = static_cast<std::uint8_t>(static_cast<int>(value) + zero_point);
  }
}

PARE_EACH_VECTOR_WIDTH void interleave_three(const std::uint8_t* a, const std::uint8_t* b, const std::uint8_t* c,
                                             std::uint8_t* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    to[3 * i] = a[i];
    to[3 * i + 1] = b[i];
    to[3 * i + 2] = c[i];
  }
}

PARE_EACH_VECTOR_WIDTH void add_row(std::int32_t* sums, const std::uint8_t* row, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sums[i] += row[i];
}
PARE_EACH_VECTOR_WIDTH void add_row(std::int32_t* sums, const std::int8_t* row, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sums[i] += row[i];
}
// More points than sums of 32 bits hold.
template <class T>
void add_row(std::int64_t* sums, const T* row, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sums[i] += row[i];
}
PARE_EACH_VECTOR_WIDTH void add_row(float* sums, const float* row, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sums[i] += row[i];
}

void quantize_row(const float* from, std::uint8_t* to, std::int64_t count, const Quantization& grid) {
  quantize_row(from, to, count, 1.0F / grid.scale, static_cast<float>((grid.is_signed ? -128 : 0) - grid.zero_point),
               static_cast<float>((grid.is_signed ? 127 : 255) - grid.zero_point), grid.zero_point);
}

void quantize_points(const float* source, std::uint8_t* result, std::int64_t channels, std::int64_t points,
                     std::int64_t count, const Quantization& grid) {
  std::array<std::array<std::uint8_t, kTile>, kMostImageChannels> rows;
  for (std::int64_t p = 0; p < count; p += kTile) {
    const auto size = std::min(kTile, count - p);
    auto* to = result + p * channels;
    for (std::int64_t c = 0; c < channels; ++c)
      quantize_row(source + c * points + p, channels == 1 ? to : rows[static_cast<std::size_t>(c)].data(), size, grid);
    if (channels == 3) {
      interleave_three(rows[0].data(), rows[1].data(), rows[2].data(), to, size);
    } else if (channels > 1) {
      for (std::int64_t i = 0; i < size; ++i)
        for (std::int64_t c = 0; c < channels; ++c)
          to[i * channels + c] = rows[static_cast<std::size_t>(c)][static_cast<std::size_t>(i)];
    }
  }
}

template <class T, class Sum>
void sum_points(const T* source, const ImageShape& shape, std::int64_t count, Sum* sums) {
  std::fill(sums, sums + count, Sum{});
  if (shape.channel_stride == 1) {
    for (std::int64_t p = 0; p < shape.points; ++p) add_row(sums, source + p * shape.point_stride, count);
  } else {
    for (std::int64_t c = 0; c < count; ++c)
      for (std::int64_t p = 0; p < shape.points; ++p)
        sums[c] += static_cast<Sum>(source[c * shape.channel_stride + p * shape.point_stride]);
  }
}

template <class T, class Sum>
void mean_of(const char* source, char* result, const ImageShape& shape, const std::optional<Quantization>& read,
             const std::optional<Quantization>& write) {
  const float scale = (read ? read->scale : 1.F) / static_cast<float>(shape.points);
  const float shift = read ? read->scale * static_cast<float>(read->zero_point) : 0.F;
  const float inverse = write ? 1.F / write->scale : 1.F, low = write && write->is_signed ? -128.F : 0.F,
              high = write && write->is_signed ? 127.F : 255.F;
  const auto tiles = (shape.channels + kTile - 1) / kTile;
#pragma omp parallel for if (tiles * shape.images > 1)
  for (std::int64_t task = 0; task < shape.images * tiles; ++task) {
    const auto image = task / tiles, first = task % tiles * kTile;
    const auto count = std::min(kTile, shape.channels - first);
    std::array<Sum, kTile> sums;
    sum_points(reinterpret_cast<const T*>(source) + image * shape.image_stride + first * shape.channel_stride, shape,
               count, sums.data());
    const auto at = image * shape.channels + first;
    for (std::int64_t c = 0; c < count; ++c) {
      const float real = static_cast<float>(sums[static_cast<std::size_t>(c)]) * scale - shift;
      if (write) {
        const float grid = std::nearbyint(real * inverse) + static_cast<float>(write->zero_point);
        result[at + c] = static_cast<char>(static_cast<int>(std::clamp(grid, low, high)));
      } else {
        reinterpret_cast<float*>(result)[at + c] = real;
      }
    }
  }
}

}  // namespace

void quantize_image(const float* source, std::uint8_t* result, std::int64_t images, std::int64_t channels,
                    std::int64_t points, const Quantization& grid) {
  const auto pieces = (points + kPointsOfATask - 1) / kPointsOfATask;
#pragma omp parallel for if (images * pieces > 1)
  for (std::int64_t task = 0; task < images * pieces; ++task) {
    const auto image = task / pieces, first = task % pieces * kPointsOfATask;
    const auto count = std::min(kPointsOfATask, points - first);
    quantize_points(source + image * channels * points + first, result + (image * points + first) * channels, channels,
                    points, count, grid);
  }
}

void quantize_floats(const float* source, std::uint8_t* result, std::int64_t count, const Quantization& grid) {
  constexpr std::int64_t kFloatsOfATask = 3 * kPointsOfATask;
  const auto tasks = (count + kFloatsOfATask - 1) / kFloatsOfATask;
#pragma omp parallel for if (tasks > 1)
  for (std::int64_t task = 0; task < tasks; ++task) {
    const auto first = task * kFloatsOfATask;
    quantize_row(source + first, result + first, std::min(kFloatsOfATask, count - first), grid);
  }
}

void mean_of_points(const char* source, dnnl::memory::data_type type, char* result, const ImageShape& shape,
                    const std::optional<Quantization>& read, const std::optional<Quantization>& write) {
  const bool wide = shape.points > std::numeric_limits<std::int32_t>::max() / 255;
  if (type == dnnl::memory::data_type::u8) {
    (wide ? mean_of<std::uint8_t, std::int64_t> : mean_of<std::uint8_t, std::int32_t>)(source, result, shape, read,
                                                                                       write);
  } else if (type == dnnl::memory::data_type::s8) {
    (wide ? mean_of<std::int8_t, std::int64_t> : mean_of<std::int8_t, std::int32_t>)(source, result, shape, read,
                                                                                     write);
  } else {
    mean_of<float, float>(source, result, shape, read, write);
  }
}

PARE_NAMESPACE_END
