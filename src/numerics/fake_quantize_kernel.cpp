#include "numerics/fake_quantize_kernel.hpp"

#include <algorithm>
#include <utility>

#include "core/round_to_even.hpp"
#include "core/vector_width.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// One value, before and after it saturates. Comparisons are written so that NaN becomes the lowest integer, as ATen
/// has it.
struct GridRounding {
  explicit GridRounding(const FakeQuantizeKernel& kernel)
      : inverse(1.0F / kernel.scale),
        zero(kernel.zero),
        low(kernel.low),
        high(kernel.high),
        below(kernel.low - kernel.zero - 2.0F),
        above(kernel.high - kernel.zero + 2.0F) {}

  [[nodiscard]] float steps(float x) const { return x * inverse; }
  [[nodiscard]] float rounded(float steps) const {
    return (std::min(above, std::max(below, steps)) + kRoundsToEven) - kRoundsToEven + zero;
  }
  [[nodiscard]] bool inside(float rounded) const { return rounded >= low && rounded <= high; }
  [[nodiscard]] float clamped(float rounded) const { return std::min(high, std::max(low, rounded)); }

  float inverse, zero, low, high, below, above;
};

}  // namespace

PARE_EACH_VECTOR_WIDTH void round_to_grid(const FakeQuantizeKernel& kernel, const FloatSpan& values) {
  const GridRounding r(kernel);
  const auto scale = kernel.scale;
  const auto* x = values.from;
  auto* y = values.to;
  for (std::int64_t i = 0; i < values.count; ++i) y[i] = (r.clamped(r.rounded(r.steps(x[i]))) - r.zero) * scale;
}

PARE_EACH_VECTOR_WIDTH void pass_unsaturated(const FakeQuantizeKernel& kernel, const FloatSpan& values,
                                             const float* gradient) {
  const GridRounding r(kernel);
  const auto* x = values.from;
  auto* dx = values.to;
  for (std::int64_t i = 0; i < values.count; ++i) dx[i] = r.inside(r.rounded(r.steps(x[i]))) ? gradient[i] : 0.0F;
}

PARE_EACH_VECTOR_WIDTH std::array<double, 2> pass_unsaturated_and_sum(const FakeQuantizeKernel& kernel,
                                                                      const FloatSpan& values, const float* gradient,
                                                                      bool rounding) {
  constexpr std::int64_t kLanes = 16;    // compilers vectorise these without reordering a sum
  constexpr std::int64_t kBlock = 4096;  // floats add up to here, doubles from there on
  const GridRounding r(kernel);
  const float share = rounding ? 1.0F : 0.0F;
  std::array<float, kLanes> scale_sum{}, zero_sum{};
  const auto one = [&](std::int64_t i, std::int64_t lane) {
    const float steps = r.steps(values.from[i]);
    const float rounded = r.rounded(steps);
    const bool inside = r.inside(rounded);
    const float q = r.clamped(rounded);
    const float g = gradient[i];
    values.to[i] = inside ? g : 0.0F;
    scale_sum[static_cast<std::size_t>(lane)] += g * (inside ? share * (q - r.zero - steps) : q - r.zero);
    zero_sum[static_cast<std::size_t>(lane)] += inside ? 0.0F : g;
  };
  std::array<double, 2> sums{};
  for (std::int64_t begin = 0; begin < values.count; begin += kBlock) {
    const auto end = std::min(begin + kBlock, values.count);
    auto i = begin;
    for (; i + kLanes <= end; i += kLanes)
      for (std::int64_t lane = 0; lane < kLanes; ++lane) one(i + lane, lane);
    for (; i < end; ++i) one(i, i % kLanes);
    for (auto& sum : scale_sum) sums[0] += static_cast<double>(std::exchange(sum, 0.0F));
    for (auto& sum : zero_sum) sums[1] += static_cast<double>(std::exchange(sum, 0.0F));
  }
  return sums;
}

PARE_NAMESPACE_END
