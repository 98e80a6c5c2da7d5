#pragma once

#include <array>
#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// A grid and one scale: `q = clamp(round(x / scale) + zero, low, high)`.
struct FakeQuantizeKernel {
  float scale, zero, low, high;
};

/// `count` floats and where their results go.
struct FloatSpan {
  const float* from;
  float* to;
  std::int64_t count;
};

/// `(q - zero) * scale`, bit for bit what `aten::fake_quantize_per_tensor_affine` computes.
void round_to_grid(const FakeQuantizeKernel& kernel, const FloatSpan& values);

/// `gradient` where q did not saturate, 0 elsewhere.
void pass_unsaturated(const FakeQuantizeKernel& kernel, const FloatSpan& values, const float* gradient);

/// The same. @return the sums of gradient * (q - zero - x / scale), or of gradient * (q - zero) where q saturated, and
/// of
///         gradient where it did; without `rounding` the first is over saturated values alone
[[nodiscard]] std::array<double, 2> pass_unsaturated_and_sum(const FakeQuantizeKernel& kernel, const FloatSpan& values,
                                                             const float* gradient, bool rounding);

PARE_NAMESPACE_END
