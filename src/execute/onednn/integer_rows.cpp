#include "execute/onednn/integer_rows.hpp"

#include <ATen/Functions.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/vector_width.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::int64_t kLanes = 16;     // numbers worked on at a time
constexpr std::int64_t kRowsOfDot = 4;  // outputs computed together: inputs are loaded once for all of them
constexpr float kCodeOffset = 8;        // of 4 bits: codes are read as 0 to 15

using LaneFloats [[gnu::vector_size(4 * kLanes)]] = float;
using LaneInts [[gnu::vector_size(4 * kLanes)]] = std::int32_t;
using LaneBytes [[gnu::vector_size(kLanes)]] = std::uint8_t;

/// Where rows that are computed together begin.
struct DotRows {
  std::array<const std::uint8_t*, kRowsOfDot> codes;
  std::array<const float*, kRowsOfDot> scale;
};

// Numbers of even position, then those of odd position, group by group: as the low and the high halves of bytes come.
PARE_EACH_VECTOR_WIDTH void split_pairs(const float* from, float* to, std::int64_t groups, std::int64_t half) {
  for (std::int64_t g = 0; g < groups; ++g, from += 2 * half, to += 2 * half)
    for (std::int64_t j = 0; j < half; ++j) {
      to[j] = from[2 * j];
      to[half + j] = from[2 * j + 1];
    }
}

PARE_EACH_VECTOR_WIDTH void dot_pairs(const DotRows& rows, const float* x, std::int64_t groups, std::int64_t half,
                                      float* result) {
  LaneFloats sum[kRowsOfDot] = {};
  for (std::int64_t g = 0; g < groups; ++g, x += 2 * half) {
    LaneFloats part[kRowsOfDot] = {};
    for (std::int64_t j = 0; j < half; j += kLanes) {
      LaneFloats even, odd;
      std::memcpy(&even, x + j, sizeof even);
      std::memcpy(&odd, x + half + j, sizeof odd);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kRowsOfDot; ++r) {
        LaneBytes bytes;
        std::memcpy(&bytes, rows.codes[r] + g * half + j, sizeof bytes);
        const auto pairs = __builtin_convertvector(bytes ^ std::uint8_t{0x88}, LaneInts);  // the sign as an offset of 8
        part[r] += __builtin_convertvector(pairs & 15, LaneFloats) * even;
        part[r] += __builtin_convertvector(pairs >> 4, LaneFloats) * odd;
      }
    }
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRowsOfDot; ++r) sum[r] += part[r] * rows.scale[r][g];
  }
  for (std::size_t r = 0; r < kRowsOfDot; ++r) {
    result[r] = 0;
    for (std::int64_t lane = 0; lane < kLanes; ++lane) result[r] += sum[r][lane];
  }
}

PARE_EACH_VECTOR_WIDTH void dot_bytes(const DotRows& rows, const float* x, std::int64_t groups, std::int64_t group,
                                      float* result) {
  LaneFloats sum[kRowsOfDot] = {};
  for (std::int64_t g = 0; g < groups; ++g, x += group) {
    LaneFloats part[kRowsOfDot] = {};
    for (std::int64_t j = 0; j < group; j += kLanes) {
      LaneFloats numbers;
      std::memcpy(&numbers, x + j, sizeof numbers);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kRowsOfDot; ++r) {
        LaneBytes bytes;
        std::memcpy(&bytes, rows.codes[r] + g * group + j, sizeof bytes);
        // Compilers widen unsigned bytes in one instruction, signed ones piece by piece.
        const auto codes = __builtin_convertvector(bytes ^ std::uint8_t{0x80}, LaneInts) - 128;
        part[r] += __builtin_convertvector(codes, LaneFloats) * numbers;
      }
    }
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRowsOfDot; ++r) sum[r] += part[r] * rows.scale[r][g];
  }
  for (std::size_t r = 0; r < kRowsOfDot; ++r) {
    result[r] = 0;
    for (std::int64_t lane = 0; lane < kLanes; ++lane) result[r] += sum[r][lane];
  }
}

PARE_EACH_VECTOR_WIDTH void pairs_to_numbers(const std::uint8_t* codes, float scale, float offset, std::int64_t half,
                                             float* to) {
  for (std::int64_t j = 0; j < half; ++j) {
    const int pair = codes[j] ^ 0x88;
    to[2 * j] = (static_cast<float>(pair & 15) - offset) * scale;
    to[2 * j + 1] = (static_cast<float>(pair >> 4) - offset) * scale;
  }
}

PARE_EACH_VECTOR_WIDTH void bytes_to_numbers(const std::int8_t* codes, float scale, float offset, std::int64_t group,
                                             float* to) {
  for (std::int64_t j = 0; j < group; ++j) to[j] = (static_cast<float>(codes[j]) - offset) * scale;
}

PARE_EACH_VECTOR_WIDTH float sum_of(const float* from, std::int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += from[i];
  return sum;
}

// What the offset of a row's codes takes off its product: `offset` may be null.
PARE_EACH_VECTOR_WIDTH float offset_product(const float* scale, const float* offset, float constant, const float* sums,
                                            std::int64_t groups) {
  float total = 0;
  if (offset == nullptr) {
#pragma omp simd reduction(+ : total)
    for (std::int64_t g = 0; g < groups; ++g) total += scale[g] * sums[g];
    return total * constant;
  }
#pragma omp simd reduction(+ : total)
  for (std::int64_t g = 0; g < groups; ++g) total += scale[g] * (constant + offset[g]) * sums[g];
  return total;
}

}  // namespace

at::Tensor IntegerRows::pairs_of(const at::Tensor& integers) {
  const auto flat = integers.contiguous();
  auto result = at::empty({flat.numel() / 2}, at::kByte);
  const auto* from = flat.const_data_ptr<std::int8_t>();
  auto* to = result.mutable_data_ptr<std::uint8_t>();
  const auto count = result.numel();
#pragma omp parallel for
  for (std::int64_t i = 0; i < count; ++i)
    to[i] = static_cast<std::uint8_t>((from[2 * i] & 15) | (from[2 * i + 1] & 15) << 4);
  return result;
}

void IntegerRows::multiply(const float* source, std::int64_t rows, float* scratch, float* result) const {
  const auto count = groups(), half = group / 2, row_bytes = features * bits / 8, stride = features + count;
  const float constant = bits == 4 ? kCodeOffset : 0;
  const auto* bytes = static_cast<const std::uint8_t*>(codes.const_data_ptr());
  const auto* scales = scale.const_data_ptr<float>();
  const auto* offsets = offset.defined() ? offset.const_data_ptr<float>() : nullptr;
  const auto* biases = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  const bool shifted = constant != 0 || offsets != nullptr;
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto* from = source + r * features;
    auto* prepared = scratch + r * stride;
    if (bits == 4) {
      split_pairs(from, prepared, count, half);
    } else {
      std::copy(from, from + features, prepared);
    }
    for (std::int64_t g = 0; g < count; ++g) prepared[features + g] = sum_of(from + g * group, group);
  }
#pragma omp parallel for schedule(static)
  for (std::int64_t first = 0; first < outputs; first += kRowsOfDot) {
    const auto size = std::min(kRowsOfDot, outputs - first);
    DotRows at{};
    for (std::int64_t i = 0; i < kRowsOfDot; ++i) {
      const auto row = first + std::min(i, size - 1);
      at.codes[static_cast<std::size_t>(i)] = bytes + row * row_bytes;
      at.scale[static_cast<std::size_t>(i)] = scales + row * count;
    }
    std::array<float, kRowsOfDot> dots{};
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto* x = scratch + r * stride;
      if (bits == 4) {
        dot_pairs(at, x, count, half, dots.data());
      } else {
        dot_bytes(at, x, count, group, dots.data());
      }
      for (std::int64_t i = 0; i < size; ++i) {
        const auto row = first + i;
        float value = dots[static_cast<std::size_t>(i)];
        if (shifted)
          value -= offset_product(scales + row * count, offsets ? offsets + row * count : nullptr, constant,
                                  x + features, count);
        result[r * outputs + row] = value + (biases ? biases[row] : 0);
      }
    }
  }
}

void IntegerRows::numbers(std::int64_t first, std::int64_t count, float* to) const {
  const auto groups_of_row = groups(), group_bytes = group * bits / 8;
  const auto* bytes = static_cast<const std::uint8_t*>(codes.const_data_ptr());
  const auto* scales = scale.const_data_ptr<float>();
  const auto* offsets = offset.defined() ? offset.const_data_ptr<float>() : nullptr;
#pragma omp parallel for schedule(static) if (count > 1)
  for (std::int64_t row = first; row < first + count; ++row)
    for (std::int64_t g = 0; g < groups_of_row; ++g) {
      const auto at = row * groups_of_row + g;
      const float zero = offsets ? offsets[at] : 0;
      auto* target = to + (row - first) * features + g * group;
      if (bits == 4) {
        pairs_to_numbers(bytes + at * group_bytes, scales[at], zero + kCodeOffset, group / 2, target);
      } else {
        bytes_to_numbers(reinterpret_cast<const std::int8_t*>(bytes) + at * group_bytes, scales[at], zero, group,
                         target);
      }
    }
}

PARE_NAMESPACE_END
