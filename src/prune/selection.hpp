#pragma once

#include <string>
#include <vector>

#include "pare/analysis/size_model.hpp"
#include "pare/prune/pruning_settings.hpp"

PARE_NAMESPACE_BEGIN

/// A prunable group with its units in the order in which they would go.
struct RankedGroup {
  const ChannelGroup* group = nullptr;
  std::vector<std::int64_t> order;  ///< units, least important first
  std::vector<double> scores;       ///< of those, ascending
  std::int64_t step = 1;            ///< units that go at a time, so that what is left is round
};

/// Chooses units until the target is met. @return how many units of each candidate go, from the front of its order
/// @throws Error `pare.prune.105` when the target cannot be met
std::vector<std::size_t> select(const std::vector<RankedGroup>& candidates, SizeModel sizes,
                                const PruningSettings& settings);

PARE_NAMESPACE_END
