#include "pruned_groups.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "pare/core/error.hpp"
#include "pare/graph/fusion.hpp"

PARE_NAMESPACE_BEGIN

PrunedGroups::PrunedGroups(const Model& whole, const ChannelGroups& groups, const Model& pruned)
    : whole_(whole), groups_(groups), pruned_(pruned) {
  for (const auto& [path, weight] : pruned_.weights()) {
    const auto before = whole_.weights().find(path);
    if (before == whole_.weights().end()) fail("pare.plan.107", path, "the model that was pruned has no such weight");
    const auto earlier = before->second.narrowings.size();
    std::map<std::int64_t, std::vector<std::int64_t>> left;
    for (std::size_t i = earlier; i < weight.narrowings.size(); ++i) {
      const auto& narrowing = weight.narrowings[i];
      auto& entries = left[narrowing.dim];
      if (entries.empty()) {
        entries.resize(static_cast<std::size_t>(before->second.tensor.size(narrowing.dim)));
        std::iota(entries.begin(), entries.end(), std::int64_t{0});
      }
      std::vector<std::int64_t> next;
      for (const auto at : narrowing.kept) next.push_back(entries.at(static_cast<std::size_t>(at)));
      entries = std::move(next);
    }
    auto sizes = before->second.tensor.sizes().vec();
    for (const auto& [dim, entries] : left) {
      sizes[static_cast<std::size_t>(dim)] = static_cast<std::int64_t>(entries.size());
      kept_[{path, dim}] = {entries.begin(), entries.end()};
    }
    if (weight.tensor.sizes() != at::IntArrayRef(sizes))
      fail("pare.plan.107", path, "its shape is not that of the model that was pruned, narrowed");
  }
  for (std::size_t g = 0; g < groups_.groups().size(); ++g)
    if (std::ranges::any_of(groups_.groups()[g].slices, [&](const auto& slice) { return !gone(slice).empty(); }))
      lost_.push_back(g);
}

std::vector<std::int64_t> PrunedGroups::gone(const ChannelGroup::Slice& slice) const {
  std::vector<std::int64_t> result;
  const auto kept = kept_.find({slice.path, slice.dim});
  if (kept == kept_.end()) return result;
  for (const auto at : slice.indices)
    if (!kept->second.contains(at)) result.push_back(at);
  return result;
}

std::map<std::pair<std::string, std::int64_t>, std::int64_t> PrunedGroups::removed(std::size_t group) const {
  std::map<std::pair<std::string, std::int64_t>, std::int64_t> result;
  for (const auto& slice : groups_.groups()[group].slices)
    if (const auto count = gone(slice).size(); count > 0)
      result[{slice.path, slice.dim}] += static_cast<std::int64_t>(count);
  return result;
}

PrunedGroups::Widened PrunedGroups::widened(const std::string& path) const {
  const auto& whole = whole_.weight(path);
  Widened result{pruned_.weight(path).detach(), {}};
  result.there = at::ones_like(result.values, at::kBool);
  for (std::int64_t dim = 0; dim < whole.dim(); ++dim) {
    const auto kept = kept_.find({path, dim});
    if (kept == kept_.end()) continue;
    const auto at = at::tensor(std::vector<std::int64_t>(kept->second.begin(), kept->second.end()));
    for (auto* tensor : {&result.values, &result.there}) {
      auto sizes = tensor->sizes().vec();
      sizes[static_cast<std::size_t>(dim)] = whole.size(dim);
      *tensor = at::zeros(sizes, tensor->options()).index_copy_(dim, at, *tensor);
    }
  }
  return result;
}

Replacements PrunedGroups::replacements(std::size_t group) const {
  const auto& graph = whole_.graph();
  Replacements result;
  std::map<std::string, std::string> bias_of;
  for (const auto& region : match_regions(graph))
    if (region.weight != kNoValue && region.bias != kNoValue && graph.value(region.bias).kind == ValueKind::Weight)
      bias_of[graph.value(region.weight).name] = graph.value(region.bias).name;
  const auto merge = [&](const std::string& path, at::Tensor own) {
    const auto other = widened(path);
    result[index(graph.weight(path))] = at::where(other.there, other.values, own);
  };
  for (const auto& slice : groups_.groups()[group].slices) {
    const auto at = gone(slice);
    if (!slice.consumes || at.empty()) continue;
    const auto value = graph.weight(slice.path);
    const auto known = result.find(index(value));
    auto own = (known == result.end() ? whole_.weight(slice.path).detach() : known->second).clone();
    own.index_fill_(slice.dim, at::tensor(at), 0);
    merge(slice.path, std::move(own));
    // What the pruned model has at these entries is nothing, whoever else went there.
    result[index(value)].index_fill_(slice.dim, at::tensor(at), 0);
    if (const auto bias = bias_of.find(slice.path); bias != bias_of.end())
      merge(bias->second, whole_.weight(bias->second).detach());
  }
  return result;
}

PARE_NAMESPACE_END
