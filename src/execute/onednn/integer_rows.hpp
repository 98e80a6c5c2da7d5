#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// The weight of a linear layer whose inputs are numbers, `[outputs, features]`, as the integers that it is: stored in
/// their own bits, made numbers while they are multiplied. A row has a scale for each group of neighbouring features.
struct IntegerRows {
  at::Tensor codes;   ///< 4 bits: uint8, flat, two a byte, the first one low; 8 bits: int8
  at::Tensor scale;   ///< float32 `[outputs, groups]`
  at::Tensor offset;  ///< float32 `[outputs, groups]`, subtracted from integers; undefined: zero
  at::Tensor bias;    ///< float32 `[outputs]`, or undefined
  std::int64_t outputs = 0, features = 0, group = 0;
  int bits = 8;

  [[nodiscard]] std::int64_t groups() const { return features / group; }
  /// Whether groups of this size can be read: whole vectors of codes.
  [[nodiscard]] static bool reads(int bits, std::int64_t group) {
    return group > 0 && group % (bits == 4 ? 32 : 16) == 0;
  }
  /// int8 integers of 4 bits as `codes`. @param integers an even number of them
  [[nodiscard]] static at::Tensor pairs_of(const at::Tensor& integers);

  /// Floats that `multiply` wants as scratch memory for `rows` inputs.
  [[nodiscard]] std::size_t scratch(std::int64_t rows) const {
    return static_cast<std::size_t>(rows * (features + groups()));
  }
  /// `result[r] = weight * source[r] + bias`, for few rows: the codes of a row are read once and stay in the cache.
  void multiply(const float* source, std::int64_t rows, float* scratch, float* result) const;
  /// Rows `[first, first + count)` of the weight as numbers.
  void numbers(std::int64_t first, std::int64_t count, float* to) const;
};

PARE_NAMESPACE_END
