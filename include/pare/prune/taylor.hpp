#pragma once

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// First-order change of the loss when the unit goes, `|sum w dL/dw|` (Molchanov et al., "Importance Estimation for
/// Neural Network Pruning", 2019).
struct Taylor {
  static constexpr auto kNeed = Need::Gradient;
  /// @return importance of each unit, `[units]`; undefined where the slice has no say
  at::Tensor operator()(const SliceView& view) const;
};

PARE_NAMESPACE_END
