#pragma once

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// What the layers that read a unit cannot make up for: the change of the model's output that is left after each of
/// them has been refitted by least squares to its own outputs on the calibration data.
///
/// For a layer `y = W x` with inputs of covariance H, removing the features b costs, with the best change of the other
/// weights, `tr(W_b (H^-1)_bb^-1 W_b^T)` (Hassibi and Stork, "Second order derivatives for network pruning: Optimal
/// Brain Surgeon", 1992; whole channels: Kurtic et al., "ZipLM", 2023). Rows of W are weighted by the squared gradient
/// of a random projection of the model's output, so that layers can be compared. Units go one after the other, each
/// update being taken into account.
///
/// Without calibration data it is `L2`.
struct LeastSquares {
  static constexpr auto kNeed = Need::Squares;
  static constexpr bool kEliminates = true;
  double damping = 0.01;  ///< added to the covariance, as a share of its mean diagonal
  /// @return importance of units that no layer reads linearly: squares of the weights, `[units]`
  at::Tensor operator()(const SliceView& view) const;
};

PARE_NAMESPACE_END
