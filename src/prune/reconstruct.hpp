#pragma once

#include "choice.hpp"
#include "pare/prune/pruning_settings.hpp"

PARE_NAMESPACE_BEGIN

/// Walks through the original and the pruned model side by side on the calibration batches and mends the pruned one as
/// it goes: each layer that reads other inputs than before is refitted to the original's outputs, each batch norm moved
/// by what its inputs' statistics have changed.
/// @param groups  of the original
/// @throws Error `pare.prune.103` for batches without samples, or on which a layer meets NaN or infinities
void reconstruct(const Model& original, const Model& pruned, Rewriter& rewriter, const ChannelGroups& groups,
                 const Pruning& pruning, const Batches& calibration, const PruningSettings& settings);

PARE_NAMESPACE_END
