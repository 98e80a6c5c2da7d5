#pragma once

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// Sum of magnitudes (Li et al., "Pruning Filters for Efficient ConvNets", 2016).
struct L1 {
  /// @return importance of each unit, `[units]`; undefined where the slice has no say
  at::Tensor operator()(const SliceView& view) const;
};

PARE_NAMESPACE_END
