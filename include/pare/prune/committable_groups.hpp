#pragma once

#include <vector>

#include "pare/analysis/channel_group.hpp"
#include "pare/capture/live_module.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// The channel groups of a Model, those frozen too that the live module's own forward holds in place: heads or channels
/// whose number is written into it, which `commit` would refuse to see changed. `ChannelGroup::frozen` names the
/// constant and the layer. It is what `Pruner` leaves alone with `commit_to`.
///
/// A constant may come from a literal, from a member, or be computed from the parameters' sizes; only a trial can tell.
/// Units are taken from the module for a moment, its own forward is run by shapes, and they are put back: the module is
/// bit for bit what it was, whatever is thrown.
///
/// @throws Error as `commit`, where not even the Model as it is could be written back
[[nodiscard]] std::vector<ChannelGroup> committable_groups(const Model& model, const LiveModule& live);

PARE_NAMESPACE_END
