#include "pare/pass/analyses.hpp"

#include <algorithm>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

void Analyses::invalidate(const Preserved& preserved) {
  std::vector<std::type_index> dropped;
  for (const auto& [type, entry] : entries_)
    if (!preserved.survives(type, entry.aspects)) dropped.push_back(type);
  std::erase_if(entries_, [&](const auto& item) {
    const auto is_dropped = [&](std::type_index type) {
      return std::find(dropped.begin(), dropped.end(), type) != dropped.end();
    };
    return is_dropped(item.first) || std::any_of(item.second.built_on.begin(), item.second.built_on.end(), is_dropped);
  });
}

Analyses::Pending::Pending(Analyses& owner, std::type_index type) : owner_(owner) {
  for (const auto& pending : owner.pending_)
    if (pending.type == type) fail("pare.pass.106", type.name(), "this analysis is built on itself");
  owner.pending_.push_back({type, {}});
}

Analyses::Pending::~Pending() { owner_.pending_.pop_back(); }

PARE_NAMESPACE_END
