#include "examples/zoo/groups.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <regex>

#include "examples/models/captured.hpp"
#include "pare/analysis/channel_groups.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/committable_groups.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"

namespace zoo {

namespace {

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return 1e3 * std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::string describe_groups(const std::string& name, bool commit) {
  const auto [bundle, model] = models::captured(name, 0, true);
  std::string text;
  if (commit) {
    const auto start = std::chrono::steady_clock::now();
    const auto groups = pare::committable_groups(model, *bundle.module);
    const auto took = milliseconds_since(start);
    for (const auto& group : groups) text += group.text();
    return text + fmt::format("{} groups, tried on the live module in {:.1f} ms\n", groups.size(), took);
  }
  double found_ms = 0, pruned_ms = 0;
  constexpr int kRounds = 3;  // the fastest of several: the first one pays for memory
  for (int round = 0; round < kRounds; ++round) {
    auto start = std::chrono::steady_clock::now();
    const pare::ChannelGroups groups(model);
    const auto found = milliseconds_since(start);
    start = std::chrono::steady_clock::now();
    static_cast<void>(pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = pare::Ratio{0.5}}, model,
                                  {.backup_weights = false}));  // other toolkits cannot go back either
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

std::string commit_table() {
  std::string text =
      "| model | groups (units) that its forward holds | MACs that can go, committed | uncommitted | "
      "why |\n|---|---|---|---|---|\n";
  for (const auto& name : models::names()) {
    const auto [bundle, model] = models::captured(name, 0, true);
    const pare::ChannelGroups groups(model);
    const auto committable = pare::committable_groups(model, *bundle.module);
    std::size_t held = 0, units = 0;
    std::map<std::string, int> reasons;
    for (std::size_t i = 0; i < committable.size(); ++i) {
      if (groups.groups()[i].is_frozen() || !committable[i].is_frozen()) continue;
      ++held;
      units += committable[i].size();
      ++reasons[std::regex_replace(committable[i].frozen, std::regex("\\.[0-9]+\\."), ".*.")];  // layers alike
    }
    std::string why;
    for (const auto& [reason, count] : reasons) why += fmt::format("{}{}× {}", why.empty() ? "" : "; ", count, reason);
    const auto share = [&, &captured = model, &module = *bundle.module](bool commit) {
      const auto pruned = pare::apply(pare::Pruner{.importance = pare::L2{},
                                                   .ratio = pare::Ratio{0.9},
                                                   .commit_to = commit ? pare::LiveModule(module) : pare::LiveModule()},
                                      captured)
                              .model;
      return 100.0 *
             (1.0 - static_cast<double>(pare::Cost(pruned).macs()) / static_cast<double>(pare::Cost(captured).macs()));
    };
    text +=
        fmt::format("| {} | {} ({}) | {:.0f} % | {:.0f} % | {} |\n", name, held, units, share(true), share(false), why);
  }
  return text;
}

}  // namespace zoo
