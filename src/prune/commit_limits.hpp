#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "capture/commit_trial.hpp"
#include "choice.hpp"

PARE_NAMESPACE_BEGIN

/// Why a set of units cannot go; nothing when it can.
using Refusal = std::function<std::optional<std::string>(const std::vector<std::int64_t>& units)>;

/// Of choices that cannot be made together: those that cannot be made alone; where each can, the first that cannot be
/// made with all before it. By position, with the reason.
std::vector<std::pair<std::size_t, std::string>> refused(const std::vector<Choice>& choices, const Refusal& refusal);

/// Which of these groups the live module's own forward holds in place, with the reason.
std::vector<std::pair<const ChannelGroup*, std::string>> commit_limits(const Model& model, const ChannelGroups& groups,
                                                                       std::vector<const ChannelGroup*> open,
                                                                       CommitTrial& trial);

/// Why the live module cannot follow a removal.
std::optional<std::string> commit_refusal(const Model& model, const Removal& removal, CommitTrial& trial);

PARE_NAMESPACE_END
