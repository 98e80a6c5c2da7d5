#pragma once

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// Squares, each divided by the sum of those not smaller in its group, which makes groups comparable (Lee et al.,
/// "Layer-adaptive sparsity for the Magnitude-based Pruning", 2020).
struct Lamp {
  static constexpr auto kNeed = Need::Squares;
  /// @return importance of each unit, `[units]`; undefined where the slice has no say
  at::Tensor operator()(const SliceView& view) const;
  /// Scores of a group by the sum of those not smaller.
  at::Tensor normalize(const at::Tensor& scores) const;
};

PARE_NAMESPACE_END
