#pragma once

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// Diagonal of the empirical Fisher information, `sum w^2 (dL/dw)^2` (Theis et al., "Faster gaze prediction with dense
/// networks and Fisher pruning", 2018): the Hessian diagonal's stand-in.
struct Fisher {
  static constexpr auto kNeed = Need::Gradient;
  /// @return importance of each unit, `[units]`; undefined where the slice has no say
  at::Tensor operator()(const SliceView& view) const;
};

PARE_NAMESPACE_END
