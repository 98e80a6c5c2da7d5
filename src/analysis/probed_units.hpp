#pragma once

#include <cstdint>
#include <vector>

#include "pare/analysis/channel_group.hpp"

PARE_NAMESPACE_BEGIN

/// Half of a group's units, spread over it: neither a prefix nor every other one. At least one, and never all; none of
/// a group of one. What is tried before a group is believed to be prunable.
std::vector<std::int64_t> probed_units(const ChannelGroup& group);

PARE_NAMESPACE_END
