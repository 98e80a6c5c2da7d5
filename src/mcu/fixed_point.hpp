#pragma once

#include <cstdint>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

/// Real factors and offsets as integers over one power of two.
struct FixedPoint {
  int shift = 0;
  std::vector<std::int32_t> multipliers;
  std::vector<std::int64_t> offsets;
  std::int64_t residual = 0;
  bool fits = false;  ///< no sum can leave 64 bits
};

/// What a kernel computes in real numbers: `sum * factor[c] + offset[c] + residual * r`, rounded to nearest, halves to
/// even.
struct RealScale {
  std::vector<double> factors;
  std::vector<double> offsets;        ///< in units of the output
  std::vector<std::int64_t> largest;  ///< magnitude that `sum` can reach, by channel
  double residual = 0.0;              ///< factor of a second summand of at most 255
};

/// The finest common shift at which nothing overflows: products stay below
/// 2^62, multipliers below 2^31.
FixedPoint fixed_point(const RealScale& scale);

}  // namespace mcu

PARE_NAMESPACE_END
