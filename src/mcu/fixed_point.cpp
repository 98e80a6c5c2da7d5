#include "mcu/fixed_point.hpp"

#include <algorithm>
#include <cmath>

PARE_NAMESPACE_BEGIN

namespace mcu {

FixedPoint fixed_point(const RealScale& scale) {
  constexpr double kProducts = 0x1p61, kMultiplier = 0x1p31 - 1;
  constexpr int kFinest = 56;
  FixedPoint result;
  double steepest = 0, furthest = 0;
  for (std::size_t c = 0; c < scale.factors.size(); ++c) {
    steepest = std::max(steepest, std::abs(scale.factors[c]));
    const auto reach = std::abs(scale.factors[c]) * static_cast<double>(scale.largest[c]) + std::abs(scale.offsets[c]) +
                       std::abs(scale.residual) * 255 + 1;
    furthest = std::max(furthest, reach);
  }
  if (!std::isfinite(steepest) || !std::isfinite(furthest)) return result;
  for (result.shift = kFinest; result.shift > 0; --result.shift) {
    const auto unit = std::ldexp(1.0, result.shift);
    if (steepest * unit <= kMultiplier && furthest * unit <= kProducts) break;
  }
  const auto unit = std::ldexp(1.0, result.shift);
  // Below 8 bits behind the point, rounding the factors would show in the
  // results.
  result.fits = result.shift >= 8;
  for (std::size_t c = 0; c < scale.factors.size() && result.fits; ++c) {
    result.multipliers.push_back(static_cast<std::int32_t>(std::llround(scale.factors[c] * unit)));
    result.offsets.push_back(std::llround((scale.offsets[c] + 0.5) * unit));
  }
  if (result.fits) result.residual = std::llround(scale.residual * unit);
  return result;
}

}  // namespace mcu

PARE_NAMESPACE_END
