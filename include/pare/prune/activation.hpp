#pragma once

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// How much of a unit reaches the layers that read it.
struct Activation {
  /// What of the activations counts.
  enum class Measure : unsigned char {
    Mean,     ///< mean magnitude
    NonZero,  ///< share of values that are not zero: one less APoZ (Hu et al., "Network Trimming", 2016)
  };
  static constexpr auto kNeed = Need::Activations;
  Measure measure = Measure::Mean;
  /// @return importance of each unit, `[units]`; undefined where the slice has no say
  at::Tensor operator()(const SliceView& view) const;
};

PARE_NAMESPACE_END
