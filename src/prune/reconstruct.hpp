#pragma once

#include "pare/analysis/removal.hpp"
#include "pare/prune/pruning_settings.hpp"

PARE_NAMESPACE_BEGIN

/// Walks through the original and the pruned model side by side on the calibration batches and mends the pruned one as
/// it goes: each layer that reads other inputs than before is refitted to the original's outputs, each batch norm moved
/// by what its inputs' statistics have changed.
void reconstruct(const Model& original, const Model& pruned, Rewriter& rewriter, const Removal& removal,
                 const Batches& calibration, const PruningSettings& settings);

PARE_NAMESPACE_END
