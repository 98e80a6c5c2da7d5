#include "examples/zoo/groups.hpp"

#include <fmt/format.h>
#include <torch/torch.h>

#include <chrono>
#include <map>

#include "examples/models/registry.hpp"
#include "examples/zoo/job.hpp"
#include "pare/analysis/channel_groups.hpp"
#include "pare/capture/capture.hpp"

namespace zoo {

namespace {

pare::Model captured(const std::string& name) {
  torch::manual_seed(0);
  auto bundle = models::make(name);
  bundle.module->eval();
  return pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2), varying_sizes(bundle));
}

}  // namespace

std::string describe_groups(const std::string& name) {
  const auto model = captured(name);
  const auto start = std::chrono::steady_clock::now();
  const pare::ChannelGroups groups(model);
  const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::string text;
  for (const auto& group : groups.groups()) text += group.text();
  return text + fmt::format("{} groups in {:.1f} ms\n", groups.groups().size(), seconds * 1e3);
}

std::string groups_table() {
  std::string text = "| model | prunable groups (units) | frozen | why |\n|---|---|---|---|\n";
  for (const auto& name : models::names()) {
    const auto model = captured(name);
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
