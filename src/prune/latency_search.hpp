#pragma once

#include "choice.hpp"

PARE_NAMESPACE_BEGIN

/// The choice that removes the fewest multiply-accumulates and makes the compiled model faster by
/// `PruningSettings::latency`, found by bisection; every step compiles a pruned model and times it beside the original.
/// @throws Error `pare.prune.105` when not even the smallest model is fast enough
Pruning meet_latency(const Model& model, Chooser& chooser, const PruningSettings& settings);

PARE_NAMESPACE_END
