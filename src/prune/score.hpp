#pragma once

#include <vector>

#include "pare/analysis/channel_groups.hpp"
#include "pare/prune/pruning_settings.hpp"
#include "selection.hpp"
#include "statistics.hpp"

PARE_NAMESPACE_BEGIN

/// Scores the units of every group. @throws Error `pare.prune.103` for scores that are NaN or infinite
std::vector<RankedGroup> score(const Model& model, const std::vector<const ChannelGroup*>& groups,
                               const Batches* calibration, std::uint64_t seed, const PruningSettings& settings);

PARE_NAMESPACE_END
