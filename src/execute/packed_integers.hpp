#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <cstddef>
#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Signed integers of 2, 4 or 8 bits in as many bytes as they need: four, two or one in a byte, lowest bits first.
class PackedIntegers {
 public:
  PackedIntegers() = default;
  /// Takes the fewest bits that hold every element. @param integers int8 of any shape
  explicit PackedIntegers(const at::Tensor& integers);

  [[nodiscard]] bool defined() const noexcept { return bytes_.defined(); }
  [[nodiscard]] int bits() const noexcept { return bits_; }
  [[nodiscard]] std::size_t nbytes() const { return defined() ? bytes_.nbytes() : 0; }
  /// The integers again: int8, contiguous, of the shape they had.
  [[nodiscard]] at::Tensor unpack() const;

 private:
  at::Tensor bytes_;  // uint8, flat
  c10::SmallVector<std::int64_t, 5> sizes_;
  int bits_ = 8;
};

PARE_NAMESPACE_END
