#include "pare/analysis/weight_storage.hpp"

#include <ATen/ATen.h>

#include <bit>
#include <set>

#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// How the weights of one fake-quantize node are stored.
struct Grid {
  int bits = 0;
  bool per_tensor = false;
  bool symmetric = false;
};

Grid grid_of(const Node& node) {
  const auto low = node.operand("quant_min").integer().value_or(-128);
  const auto high = node.operand("quant_max").integer().value_or(127);
  return {static_cast<int>(std::bit_width(static_cast<std::uint64_t>(high - low))),
          node.is("aten::fake_quantize_per_tensor_affine"), low == -high};
}

// The fake-quantize that a weight goes through before anything computes with it: behind reshapes and transposes at
// most. What others read beside it is stored as they read it.
const Node* quantizer_of(const Graph& graph, ValueId weight) {
  for (auto value = weight;;) {
    const auto& uses = graph.uses(value);
    if (uses.size() != 1 || uses[0].node == kNoNode) return nullptr;
    const auto& node = graph.node(uses[0].node);
    const auto family = family_of(graph, node.id);
    if (family == OpFamily::FakeQuantize) return uses[0].operand == 0 ? &node : nullptr;
    if (family != OpFamily::PassThrough) return nullptr;
    value = node.output();
  }
}

}  // namespace

WeightStorage::WeightStorage(const Model& model) {
  const auto& graph = model.graph();
  std::set<const void*> counted;
  std::set<std::string> without;                            // zero points that are all zero
  std::map<std::string, std::vector<std::string>> qparams;  // of weights: scales, zero points
  for (std::size_t i = 0; i < graph.value_count(); ++i) {
    const auto& value = graph.value(ValueId{static_cast<std::uint32_t>(i)});
    if (value.kind != ValueKind::Weight || graph.uses(value.id).empty()) continue;
    const auto& tensor = model.weight(value.id);
    if (!tensor.defined()) continue;
    auto bytes = static_cast<std::uint64_t>(tensor.nbytes());
    bits_[value.name] = static_cast<int>(8 * tensor.element_size());
    if (const auto* node = quantizer_of(graph, value.id)) {
      const auto grid = grid_of(*node);
      bits_[value.name] = grid.bits;
      bytes = (static_cast<std::uint64_t>(tensor.numel()) * static_cast<std::uint64_t>(grid.bits) + 7) / 8;
      if (grid.per_tensor) {
        grids_[value.name] = sizeof(float) + (grid.symmetric ? 0 : sizeof(std::int32_t));
      } else {
        if (grid.symmetric) without.insert(graph.value(node->input(2)).name);
        qparams[value.name] = {graph.value(node->input(1)).name, graph.value(node->input(2)).name};
      }
    }
    by_path_[value.name] = counted.insert(tensor.const_data_ptr()).second ? bytes : 0;
  }
  for (const auto& path : without)
    if (const auto found = by_path_.find(path); found != by_path_.end()) found->second = 0;
  for (const auto& [path, bytes] : grids_) bytes_ += bytes;  // numbers in the graph, no entries of the table
  for (const auto& [path, bytes] : by_path_) bytes_ += bytes;
  for (const auto& [path, entries] : qparams)
    for (const auto& entry : entries) grids_[path] += this->bytes(entry);
}

std::uint64_t WeightStorage::grid_bytes(const std::string& path) const {
  const auto found = grids_.find(path);
  return found == grids_.end() ? 0 : found->second;
}

std::uint64_t WeightStorage::bytes(const std::string& path) const {
  const auto found = by_path_.find(path);
  return found == by_path_.end() ? 0 : found->second;
}

int WeightStorage::bits(const std::string& path) const {
  const auto found = bits_.find(path);
  return found == bits_.end() ? 0 : found->second;
}

PARE_NAMESPACE_END
