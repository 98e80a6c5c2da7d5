#pragma once

#include <cstdint>

#include "pare/core/literals.hpp"

PARE_NAMESPACE_BEGIN

/// The integers that stand for real numbers: `[min, max]`, and whether zero must be the integer 0.
struct IntegerGrid {
  std::int64_t min = 0;
  std::int64_t max = 255;
  bool symmetric = false;  ///< zero point fixed at 0

  /// `[0, 2^bits - 1]` with any zero point: activations.
  static constexpr IntegerGrid unsigned_affine(Bits bits = {8}) {
    return {0, (std::int64_t{1} << bits.count) - 1, false};
  }
  /// `[-2^(bits-1) + 1, 2^(bits-1) - 1]`, zero point 0: weights. Leaving out the lowest integer keeps the grid
  /// symmetric.
  static constexpr IntegerGrid signed_symmetric(Bits bits = {8}) {
    const auto top = (std::int64_t{1} << (bits.count - 1)) - 1;
    return {-top, top, true};
  }
  /// `[-2^(bits-1), 2^(bits-1) - 1]` with any zero point.
  static constexpr IntegerGrid signed_affine(Bits bits = {8}) {
    const auto half = std::int64_t{1} << (bits.count - 1);
    return {-half, half - 1, false};
  }
  [[nodiscard]] constexpr std::int64_t steps() const { return max - min; }
  friend constexpr bool operator==(const IntegerGrid&, const IntegerGrid&) = default;
};

/// An interval of real numbers.
struct Range {
  double low = 0.0;
  double high = 0.0;
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

/// One tensor's quantization: `real = scale * (integer - zero_point)`, integers in `[quant_min, quant_max]`.
struct QParams {
  double scale = 1.0;
  std::int64_t zero_point = 0;
  std::int64_t quant_min = 0;
  std::int64_t quant_max = 255;

  [[nodiscard]] constexpr double low() const { return scale * static_cast<double>(quant_min - zero_point); }
  [[nodiscard]] constexpr double high() const { return scale * static_cast<double>(quant_max - zero_point); }
  friend constexpr bool operator==(const QParams&, const QParams&) = default;
};

PARE_NAMESPACE_END
