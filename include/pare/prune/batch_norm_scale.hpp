#pragma once

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// Magnitude of the batch norm's scale (Liu et al., "Learning Efficient Convolutional Networks through Network
/// Slimming", 2017); groups without a batch norm fall back to L2.
struct BatchNormScale {
  /// @return importance of each unit, `[units]`; undefined where the slice has no say
  at::Tensor operator()(const SliceView& view) const;
};

PARE_NAMESPACE_END
