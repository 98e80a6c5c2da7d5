#include "joint_size.hpp"

#include <algorithm>
#include <cmath>

#include "pare/analysis/cost.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/graph/fusion.hpp"

PARE_NAMESPACE_BEGIN

namespace {

std::uint64_t entries_left(const std::string& weight, const std::vector<std::int64_t>& sizes,
                           const std::map<WeightAxis, std::int64_t>& removed) {
  std::uint64_t count = 1;
  for (std::size_t dim = 0; dim < sizes.size(); ++dim) {
    const auto found = removed.find({weight, static_cast<std::int64_t>(dim)});
    count *= static_cast<std::uint64_t>(sizes[dim] - (found == removed.end() ? 0 : found->second));
  }
  return count;
}

}  // namespace

JointSize::JointSize(const Model& model, const Model& quantized, const std::vector<JointClass>& classes)
    : classes_(classes) {
  const WeightStorage stored(quantized);
  std::uint64_t known = 0;
  for (const auto& [path, weight] : quantized.weights()) {
    const auto bytes = stored.bytes(path);
    known += bytes;
    if (stored.bits(path) > 0) entries_.push_back({path, weight.tensor.sizes().vec(), bytes, stored.bits(path)});
  }
  beside_ = stored.bytes() - known;
  find_grids(quantized);
  std::map<NodeId, std::string> weight_of;
  for (const auto& region : match_regions(model.graph()))
    if (region.weight != kNoValue) weight_of[region.anchor] = model.graph().value(region.weight).name;
  const Cost cost(model);
  for (const auto& layer : cost.layers()) {
    const auto found = weight_of.find(layer.node);
    if (found == weight_of.end()) {
      fixed_macs_ += static_cast<double>(layer.macs);
    } else {
      macs_[found->second] += static_cast<double>(layer.macs);
    }
  }
}

// Scales and zero points stand for the channels of their weight, or for groups of its entries.
void JointSize::find_grids(const Model& quantized) {
  const auto& graph = quantized.graph();
  const auto mark = [&](ValueId value, const std::string& weight, std::optional<std::int64_t> axis) {
    const auto found = std::ranges::find(entries_, graph.value(value).name, &Entry::path);
    if (found == entries_.end()) return;
    found->weight = weight;
    found->axis = axis;
  };
  for (const auto& region : match_regions(graph))
    for (const auto id : region.weight_nodes) {
      const auto& node = graph.node(id);
      if (!node.is("aten::fake_quantize_per_channel_affine")) continue;
      const bool whole = id == region.weight_nodes.front();  // not cut into groups before
      const auto axis = whole ? node.operand("axis").integer() : std::nullopt;
      for (const auto position : {1, 2}) mark(node.input(position), graph.value(region.weight).name, axis);
    }
}

const JointSize::Entry& JointSize::entry(const std::string& path) const {
  return *std::ranges::find(entries_, path, &Entry::path);
}

std::uint64_t JointSize::count_left(const Entry& entry, const Removed& removed) const {
  if (entry.weight.empty()) return entries_left(entry.path, entry.sizes, removed);
  const auto& weight = this->entry(entry.weight);
  if (!entry.axis)
    return static_cast<std::uint64_t>(
        std::llround(static_cast<double>(entry.sizes.at(0)) * share_left(weight, removed)));
  const auto gone = removed.find({entry.weight, *entry.axis});
  return static_cast<std::uint64_t>(entry.sizes.at(0) - (gone == removed.end() ? 0 : gone->second));
}

std::uint64_t JointSize::bytes(const Selected& selected) const {
  const auto removed = removed_by(selected);
  auto total = beside_;
  for (const auto& entry : entries_) {
    if (entry.bytes == 0) continue;  // tied to another one, or zero points that are all zero
    const auto count = count_left(entry, removed);
    const auto bits = bits_of(entry, selected);
    total +=
        bits > 8 ? count * static_cast<std::uint64_t>(bits / 8) : (count * static_cast<std::uint64_t>(bits) + 7) / 8;
  }
  return total;
}

double JointSize::macs(const Selected& selected) const {
  const auto removed = removed_by(selected);
  auto total = fixed_macs_;
  for (const auto& entry : entries_)
    if (const auto found = macs_.find(entry.path); found != macs_.end())
      total += found->second * share_left(entry, removed);
  return total;
}

double JointSize::share_left(const Entry& entry, const Removed& removed) {
  double whole = 1;
  for (const auto size : entry.sizes) whole *= static_cast<double>(size);
  return whole > 0 ? static_cast<double>(entries_left(entry.path, entry.sizes, removed)) / whole : 1.0;
}

std::map<std::string, double> JointSize::left(const Selected& selected) const {
  const auto removed = removed_by(selected);
  std::map<std::string, double> result;
  for (const auto& entry : entries_) result[entry.path] = share_left(entry, removed);
  return result;
}

JointSize::Removed JointSize::removed_by(const Selected& selected) const {
  Removed removed;
  for (std::size_t k = 0; k < classes_.size(); ++k)
    for (const auto& [axis, count] : classes_[k].choices[selected[k]].removed) removed[axis] += count;
  return removed;
}

int JointSize::bits_of(const Entry& entry, const Selected& selected) const {
  for (std::size_t k = 0; k < classes_.size(); ++k)
    if (classes_[k].weight == entry.path) return classes_[k].choices[selected[k]].bits.count;
  return entry.bits;
}

PARE_NAMESPACE_END
