#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "pare/core/qparams.hpp"

PARE_NAMESPACE_BEGIN

/// What a scale learns from when gradients pass a fake-quantize.
enum class ScaleGradient : std::uint8_t {
  None,      ///< nothing: an observer sets it
  Rounding,  ///< rounding errors and saturated values: LSQ (Esser et al., "Learned Step Size Quantization", 2020)
  Clipping,  ///< saturated values alone: PACT (Choi et al., 2018)
};

/// How `learned_fake_quantize` rounds, and what flows back.
struct LearnedFakeQuantize {
  IntegerGrid grid = {};
  std::int64_t axis = -1;  ///< the axis that scales lie along; -1: one scale for the whole tensor
  ScaleGradient scale = ScaleGradient::Rounding;
  /// What the gradients of scale and zero point are multiplied with; `lsq_gradient_scale` is the usual choice.
  double gradient_scale = 1.0;
};

/// `1 / sqrt(count * grid.max)`, which keeps the steps of a scale and of the `count` values that share it in proportion
/// (LSQ, section 2.2). For an affine grid the largest integer is taken as its number of steps.
[[nodiscard]] double lsq_gradient_scale(std::int64_t count, const IntegerGrid& grid);

/// Scales below this one count as this one: learned scales stay positive.
inline constexpr double kSmallestScale = 1e-12;

/// Scales and zero points as kernels take them: positive, and integers of the grid.
/// @throws Error `pare.numerics.107` for a scale or zero point that is NaN or infinite
[[nodiscard]] at::Tensor kernel_scale(const at::Tensor& scale);
[[nodiscard]] at::Tensor kernel_zero_point(const at::Tensor& zero_point, const IntegerGrid& grid);

/// Rounds to the grid and back, bit for bit what `aten::fake_quantize_per_tensor_affine` (or `_per_channel_affine`)
/// computes with `kernel_scale` and `kernel_zero_point`, and differentiable in all three arguments. With
/// `v = x / s`, `q = clamp(round(v) + z, min, max)` and gradient `g`:
///
///     x: g where q did not saturate, 0 elsewhere                   (straight-through estimator with clipped gradients)
///     s: sum of g * (q - z - v), or g * (q - z) where q saturated      (`Rounding`; `Clipping` keeps the second term)
///     z: sum of g * (-s) where q saturated                         (LSQ+, Bhalgat et al., 2020, for integer offsets)
///
/// @param values     float, any shape
/// @param scale      float, `[]` or `[channels]`
/// @param zero_point float of the same shape, rounded here: an offset that is learned moves in integers
/// @throws Error `pare.numerics.105` shapes that do not fit, `.107` a scale or zero point that is NaN or infinite
[[nodiscard]] at::Tensor learned_fake_quantize(const at::Tensor& values, const at::Tensor& scale,
                                               const at::Tensor& zero_point, const LearnedFakeQuantize& how);

PARE_NAMESPACE_END
