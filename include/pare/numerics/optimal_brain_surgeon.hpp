#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Takes weights out of a layer and lets those that stay make up for them: Hassibi and Stork, "Optimal Brain Surgeon",
/// 1993, row by row as in Frantar and Alistarh, "Optimal Brain Compression", 2022.
///
/// A row w of the layer minimises `E (w x - v x')^2` over the weights v that stay, where x are the layer's inputs and
/// x' those it will have (other than x once earlier layers are pruned): with `H = E[x' x'^T]` and `C = E[x' x^T]`, v
/// solves `H_SS v_S = (C w)_S`. What it then costs to remove weight p as well is `v_p^2 / [H_SS^-1]_pp`.
///
/// Rows are solved exactly, one Cholesky factor each, as long as `work_limit` allows. Beyond that one sweep over the
/// features with a factor for all rows does instead (Frantar and Alistarh, "SparseGPT", 2023), which ignores C.
struct OptimalBrainSurgeon {
  double damping = 0.01;     ///< of the mean diagonal, added to the diagonal of H; at least 0
  double work_limit = 4e11;  ///< multiplications for the exact solution of one layer
  std::int64_t block = 64;   ///< features of a sweep whose updates are applied together

  struct Result {
    at::Tensor weight;            ///< `[rows, features]` float, zero outside the mask
    at::Tensor inverse_diagonal;  ///< `[H_SS^-1]_pp` for weights in the mask, 1 elsewhere; `[rows, features]` float
    bool exact = true;            ///< row by row, not by a sweep
  };

  /// @param weight  `[rows, features]` float, before anything is removed
  /// @param mask    `[rows, features]` bool, the weights that stay
  /// @param hessian `[features, features]` double, symmetric
  /// @param cross   `E[x' x^T]`, like `hessian`; undefined: the hessian
  /// @throws Error `pare.numerics.123` for shapes that do not fit
  [[nodiscard]] Result operator()(const at::Tensor& weight, const at::Tensor& mask, const at::Tensor& hessian,
                                  const at::Tensor& cross = {}) const;
};

PARE_NAMESPACE_END
