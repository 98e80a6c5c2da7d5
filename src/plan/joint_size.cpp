#include "joint_size.hpp"

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
    if (bytes > 0) entries_.push_back({path, weight.tensor.sizes().vec(), bytes, stored.bits(path)});
  }
  beside_ = stored.bytes() - known;
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

std::uint64_t JointSize::bytes(const Selected& selected) const {
  const auto removed = removed_by(selected);
  auto total = beside_;
  for (const auto& entry : entries_) {
    // Scales stand for the output channels of their weight.
    const bool scale = entry.path.ends_with(".scale");
    const auto weight = scale ? entry.path.substr(0, entry.path.size() - 6) : entry.path;
    const auto count = entries_left(weight, entry.sizes, removed);
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
