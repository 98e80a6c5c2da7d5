#include "pare/numerics/exact_scales.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "pare/numerics/fake_quantize.hpp"

PARE_NAMESPACE_BEGIN

QParams choose_exact_qparams(Range range, const IntegerGrid& grid) {
  // Doubling a scale costs 6 dB everywhere, a tenth of the range a few values at its end.
  constexpr double kHeld = 0.9;
  auto result = choose_qparams(range, grid);
  const double plain = result.scale;
  result.scale = std::exp2(std::ceil(std::log2(plain * kHeld)));
  if (grid.symmetric) return result;
  // Where less is held than there is, both ends give alike.
  const double low = std::min(range.low, 0.0) * std::min(1.0, result.scale / plain);
  const auto even = 2 * std::llround((static_cast<double>(grid.min) - low / result.scale) / 2);
  result.zero_point = std::clamp<std::int64_t>(even, grid.min + grid.min % 2, grid.max - grid.max % 2);
  return result;
}

at::Tensor exact_scales(const at::Tensor& scales) {
  const auto [mantissa, exponent] = at::frexp(scales.to(at::kDouble));
  const auto steps = at::ceil(mantissa * (1 << kExactScaleBits));
  return at::ldexp(steps, exponent - kExactScaleBits).to(scales.scalar_type());
}

PARE_NAMESPACE_END
