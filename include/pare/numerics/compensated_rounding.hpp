#pragma once

#include <ATen/core/Tensor.h>

#include "pare/core/qparams.hpp"

PARE_NAMESPACE_BEGIN

/// Rounds a layer's weights one input feature after the other and lets the features not yet rounded make up for the
/// error: Frantar et al., "GPTQ", 2023, after Optimal Brain Surgeon.
///
/// Minimises `tr((W - Q) H (W - Q)^T)`, the mean squared error of the layer's outputs when `H = E[x x^T]`. With the
/// covariance as `H`, the error of the mean is left to bias correction. With `H^-1 = U^T U` (U upper triangular), once
/// feature k is rounded the error `e = (w_k - q_k) / U_kk` is taken from the later features: `w_j -= e U_kj`. Weights
/// that are exactly zero were pruned: they stay zero, and do not make up for others.
struct CompensatedRounding {
  double damping = 0.01;      ///< of the mean diagonal, added to the diagonal of H; at least 0
  bool largest_first = true;  ///< features in descending order of `H_jj`: those that matter most have the most to
                              ///< make up with
  std::int64_t block = 64;    ///< features whose updates are applied together

  /// @param weight     `[rows, features]` float
  /// @param hessian    `[features, features]` double, symmetric
  /// @param scale      `[rows, groups]` float: one scale for `features / groups` neighbouring features of a row
  /// @param zero_point like `scale`, int32
  /// @return `[rows, features]` float, on the grid. Where H is not positive definite even when damped, the nearest
  ///         integers.
  /// @throws Error `pare.numerics.105` for shapes that do not fit
  [[nodiscard]] at::Tensor operator()(const at::Tensor& weight, const at::Tensor& hessian, const at::Tensor& scale,
                                      const at::Tensor& zero_point, const IntegerGrid& grid) const;
};

PARE_NAMESPACE_END
