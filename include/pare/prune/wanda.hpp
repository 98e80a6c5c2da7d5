#pragma once

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// Magnitude of weight times root mean square of what it multiplies (Sun et al., "A Simple and Effective Pruning
/// Approach for Large Language Models", 2023). Looks at the layers' inputs.
struct Wanda {
  static constexpr auto kNeed = Need::Activations;
  /// @return importance of each unit, `[units]`; undefined where the slice has no say
  at::Tensor operator()(const SliceView& view) const;
};

PARE_NAMESPACE_END
