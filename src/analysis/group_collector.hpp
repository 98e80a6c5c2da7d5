#pragma once

#include <cstdint>
#include <vector>

#include "pare/analysis/channel_group.hpp"
#include "pare/analysis/removal.hpp"
#include "tagger.hpp"

PARE_NAMESPACE_BEGIN

/// The classes of a tagged graph as groups: those that take up the same number of entries on the same axes.
std::vector<ChannelGroup> collect_groups(const Tagger& tagger);

constexpr std::uint32_t kNoGroup = static_cast<std::uint32_t>(-1);

/// Tells each group which constants a trial removal had to edit.
/// @param group_of  the group of each tag that names a unit, or kNoGroup
void name_constants(const Tagger& tagger, const Removal& removal, const std::vector<std::uint32_t>& group_of,
                    std::vector<ChannelGroup>& groups);

PARE_NAMESPACE_END
