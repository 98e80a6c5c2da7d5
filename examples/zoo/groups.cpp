#include "examples/zoo/groups.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "examples/models/captured.hpp"
#include "pare/analysis/channel_groups.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"

namespace zoo {

namespace {

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return 1e3 * std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::string describe_groups(const std::string& name) {
  const auto model = models::captured(name, 0, true).model;
  std::string text;
  double found_ms = 0, pruned_ms = 0;
  constexpr int kRounds = 3;  // the fastest of several: the first one pays for memory
  for (int round = 0; round < kRounds; ++round) {
    auto start = std::chrono::steady_clock::now();
    const pare::ChannelGroups groups(model);
    const auto found = milliseconds_since(start);
    start = std::chrono::steady_clock::now();
    static_cast<void>(pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = pare::Ratio{0.5}}, model));
    const auto pruned = milliseconds_since(start);
    found_ms = round == 0 ? found : std::min(found_ms, found);
    pruned_ms = round == 0 ? pruned : std::min(pruned_ms, pruned);
    if (round > 0) continue;
    for (const auto& group : groups.groups()) text += group.text();
    text += fmt::format("{} groups", groups.groups().size());
  }
  return text + fmt::format(" in {:.1f} ms; found and half of each pruned by L2 in {:.1f} ms\n", found_ms, pruned_ms);
}

std::string groups_table() {
  std::string text = "| model | prunable groups (units) | frozen | why |\n|---|---|---|---|\n";
  for (const auto& name : models::names()) {
    const auto model = models::captured(name, 0, true).model;
    const pare::ChannelGroups groups(model);
    std::size_t prunable = 0, units = 0, frozen = 0;
    std::map<std::string, int> reasons;
    for (const auto& group : groups.groups()) {
      if (group.is_frozen()) {
        ++frozen;
        ++reasons[group.frozen];
      } else {
        ++prunable;
        units += group.size();
      }
    }
    std::string why;
    for (const auto& [reason, count] : reasons) why += fmt::format("{}{}× {}", why.empty() ? "" : "; ", count, reason);
    text += fmt::format("| {} | {} ({}) | {} | {} |\n", name, prunable, units, frozen, why);
  }
  return text;
}

}  // namespace zoo
