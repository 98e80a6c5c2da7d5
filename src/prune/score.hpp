#pragma once

#include <vector>

#include "pare/analysis/channel_groups.hpp"
#include "pare/prune/pruning_settings.hpp"
#include "selection.hpp"
#include "statistics.hpp"
#include "weight_squares.hpp"

PARE_NAMESPACE_BEGIN

/// Scores the units of every group. @param squares of the weights, for criteria that need them
/// @throws Error `pare.prune.103` for scores that are NaN or infinite
std::vector<RankedGroup> score(const Model& model, const std::vector<const ChannelGroup*>& groups,
                               const Batches* calibration, std::uint64_t seed, const PruningSettings& settings,
                               WeightSquares squares = {});

PARE_NAMESPACE_END
