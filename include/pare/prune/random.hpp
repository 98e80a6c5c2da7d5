#pragma once

#include <cstdint>

#include "pare/prune/slice_view.hpp"

PARE_NAMESPACE_BEGIN

/// Chance: what any criterion has to beat.
struct Random {
  std::uint64_t seed = 0;
  /// @return importance of each unit, `[units]`; drawn for each matrix that the group has a slice of
  at::Tensor operator()(const SliceView& view) const;
};

PARE_NAMESPACE_END
