#pragma once

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// Distance to the other units: what is near the geometric median can be replaced by the rest (He et al., "Filter
/// Pruning via Geometric Median", 2018). Looks at the layers' outputs; units of
/// a single weight have no median worth the name and are scored by their squares.
struct GeometricMedian {
  /// @return importance of each unit, `[units]`; undefined where the slice has no say
  at::Tensor operator()(const SliceView& view) const;
};

PARE_NAMESPACE_END
