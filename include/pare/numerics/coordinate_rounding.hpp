#pragma once

#include <ATen/core/Tensor.h>

#include "pare/core/qparams.hpp"

PARE_NAMESPACE_BEGIN

/// Chooses scales and integers of a layer's rows together, by the error of the layer's outputs.
///
/// Minimises, row by row, `(w - s q)^T H (w - s q)` over the scale `s` and the integers `q`, with `H = E[x x^T]` of the
/// layer's inputs: the objective of AdaRound (Nagel et al., 2020) and GPTQ (Frantar et al., 2023). For each of a few
/// scales, error-compensated rounding gives the integers to start from; the best start is taken, and then integers and
/// scale are improved in turns: one integer at a time to where it leaves the least error with all others fixed
/// (coordinate descent, no sampling and no forward passes), the scale to its least-squares value. The error never grows
/// from one turn to the next. Weights that are exactly zero were pruned and stay zero.
struct CoordinateRounding {
  int candidates = 12;      ///< scales tried, at least 1
  double smallest = 0.4;    ///< of the scale that holds the row's largest weight, in (0, 1]
  int turns = 3;            ///< of integers and scale, at least 0
  int sweeps = 8;           ///< over a row's integers in a turn, at most
  double damping = 0.01;    ///< of the mean diagonal, added to the diagonal of H; at least 0
  std::int64_t block = 64;  ///< features whose updates are applied together, of the start

  struct Result {
    at::Tensor rounded;  ///< `[rows, features]` float, on the grid
    at::Tensor scale;    ///< `[rows]` float
  };

  /// @param weight  `[rows, features]` float
  /// @param hessian `[features, features]` double, symmetric
  /// @param grid    symmetric
  /// @throws Error `pare.numerics.105` for shapes or a grid that do not fit, `.101` for NaN or infinities
  [[nodiscard]] Result operator()(const at::Tensor& weight, const at::Tensor& hessian, const IntegerGrid& grid) const;
};

PARE_NAMESPACE_END
