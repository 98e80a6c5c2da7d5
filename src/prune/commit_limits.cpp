#include "commit_limits.hpp"

#include <algorithm>

#include "analysis/probed_units.hpp"
#include "pare/core/error.hpp"
#include "pare/prune/committable_groups.hpp"

PARE_NAMESPACE_BEGIN

namespace {

std::vector<std::int64_t> units_of(const std::vector<Choice>& choices, std::size_t count) {
  std::vector<std::int64_t> units;
  for (std::size_t i = 0; i < count; ++i) units.insert(units.end(), choices[i].units.begin(), choices[i].units.end());
  return units;
}

}  // namespace

std::vector<std::pair<std::size_t, std::string>> refused(const std::vector<Choice>& choices, const Refusal& refusal) {
  std::vector<std::pair<std::size_t, std::string>> found;
  for (std::size_t i = 0; i < choices.size(); ++i)
    if (!choices[i].units.empty())
      if (auto why = refusal(choices[i].units)) found.emplace_back(i, *std::move(why));
  if (!found.empty()) return found;
  std::size_t good = 0, bad = choices.size();  // so many from the front
  std::string reason;
  while (good + 1 < bad) {
    const auto middle = good + (bad - good) / 2;
    auto why = refusal(units_of(choices, middle));
    (why ? bad : good) = middle;
    if (why) reason = *std::move(why);
  }
  if (bad == 0) return found;
  if (reason.empty()) reason = refusal(units_of(choices, bad)).value_or("");
  if (!reason.empty()) found.emplace_back(bad - 1, std::move(reason));
  return found;
}

std::optional<std::string> commit_refusal(const Model& model, const Removal& removal, CommitTrial& trial) {
  auto narrower = model;
  Rewriter rewriter(narrower);
  apply_removal(rewriter, removal);
  return trial.refusal(narrower);
}

std::vector<std::pair<const ChannelGroup*, std::string>> commit_limits(const Model& model, const ChannelGroups& groups,
                                                                       std::vector<const ChannelGroup*> open,
                                                                       CommitTrial& trial) {
  std::vector<std::pair<const ChannelGroup*, std::string>> limits;
  const Refusal refusal = [&](const std::vector<std::int64_t>& units) -> std::optional<std::string> {
    std::optional<Removal> removal;
    try {
      removal = groups.removal(units);
    } catch (const Error& error) {
      if (error.id() != "pare.analysis.103") throw;
      return std::nullopt;  // half of this group alone is no whole number of something: the real choice is tried later
    }
    return commit_refusal(model, *removal, trial);
  };
  while (!open.empty()) {
    std::vector<Choice> choices;
    for (const auto* group : open) choices.push_back({group, probed_units(*group)});
    if (!refusal(units_of(choices, choices.size()))) break;
    auto stuck = refused(choices, refusal);
    if (stuck.empty()) break;
    for (auto it = stuck.rbegin(); it != stuck.rend(); ++it) {
      limits.emplace_back(open[it->first], std::move(it->second));
      open.erase(open.begin() + static_cast<std::ptrdiff_t>(it->first));
    }
  }
  return limits;
}

std::vector<ChannelGroup> committable_groups(const Model& model, const LiveModule& live) {
  const ChannelGroups groups(model);
  CommitTrial trial(model, live);
  auto all = groups.groups();
  std::vector<const ChannelGroup*> open;
  for (const auto& group : groups.groups())
    if (!group.is_frozen()) open.push_back(&group);
  for (auto& [group, reason] : commit_limits(model, groups, std::move(open), trial))
    std::ranges::find(all, group->name, &ChannelGroup::name)->frozen = reason;
  return all;
}

PARE_NAMESPACE_END
