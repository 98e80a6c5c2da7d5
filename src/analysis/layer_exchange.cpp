#include "pare/analysis/layer_exchange.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "pare/analysis/float_switches.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// The value that a region's anchor reads as its weight.
ValueId read_weight(const Graph& graph, const FusedRegion& region) {
  return region.weight_nodes.empty() ? region.weight : graph.node(region.weight_nodes.back()).output();
}

// The weight as the anchor reads it: through fake-quantize, transposes and reshapes.
at::Tensor effective_weight(const Model& model, const FusedRegion& region) {
  std::map<ValueId, at::Tensor> known;
  const auto find = [&](ValueId value) {
    const auto found = known.find(value);
    return found == known.end() ? model.weight(value).detach() : found->second;
  };
  for (const auto id : region.weight_nodes) {
    const auto& node = model.graph().node(id);
    known[node.output()] = Interpreter::call(node, {}, false, find).at(0);
  }
  return find(read_weight(model.graph(), region));
}

bool is_quantized(const Graph& graph, const FusedRegion& region) {
  return std::ranges::any_of(region.weight_nodes,
                             [&](NodeId id) { return family_of(graph.node(id).op) == OpFamily::FakeQuantize; });
}

// The switches that stand before a layer's inputs (`with_float_switches`).
std::vector<ValueId> switches_of(const Graph& graph, NodeId anchor) {
  std::vector<ValueId> found;
  for (const auto& operand : graph.node(anchor).operands)
    operand.each_value([&](ValueId value) {
      const auto* node = graph.producer(value);
      if (node && node->is("aten::where.self") && graph.value(node->input(0)).name.ends_with(kFloatSwitch))
        found.push_back(node->input(0));
    });
  return found;
}

bool is_table_value(const Graph& graph, ValueId value) {
  return value != kNoValue && graph.value(value).kind == ValueKind::Weight;
}

}  // namespace

LayerExchange::LayerExchange(const Model& model) : model_(model) {
  const auto& graph = model.graph();
  std::map<std::size_t, std::size_t> layer_of;  // weight value -> layer
  for (auto& region : match_regions(graph)) {
    if (region.weight == kNoValue) continue;
    const auto [at, fresh] = layer_of.emplace(index(region.weight), layers_.size());
    if (fresh) {
      const auto& weight = model.weight(region.weight);
      layers_.push_back({graph.node(region.anchor).name, graph.value(region.weight).name, weight.numel(), {}});
      regions_.emplace_back();
    }
    layers_[at->second].readers.push_back(region.anchor);
    regions_[at->second].push_back(std::move(region));
  }
}

std::vector<Replacements> LayerExchange::taken_from(const Variant& variant) const {
  const at::NoGradGuard no_grad;
  const auto &ours = model_.graph(), &theirs = variant.model.graph();
  std::map<std::string, FusedRegion> by_name;
  for (auto& region : match_regions(theirs)) by_name[theirs.node(region.anchor).name] = std::move(region);
  std::vector<Replacements> result(layers_.size());
  for (std::size_t i = 0; i < layers_.size(); ++i)
    for (const auto& region : regions_[i]) {
      const auto& name = ours.node(region.anchor).name;
      const auto other = by_name.find(name);
      if (other == by_name.end() || other->second.weight == kNoValue)
        fail("pare.analysis.106", name, "the variant {} has no such layer", variant.name);
      auto weight = effective_weight(variant.model, other->second);
      const auto value = read_weight(ours, region);
      if (static_cast<std::size_t>(weight.dim()) != ours.value(value).type.rank() ||
          variant.model.weight(other->second.weight).sizes() != model_.weight(region.weight).sizes())
        fail("pare.analysis.106", name, "its weight has another shape in the variant {}", variant.name);
      if ((region.batch_norm == kNoNode) != (other->second.batch_norm == kNoNode))
        fail("pare.analysis.106", name, "its batch norm is folded in one model alone: fold it in both");
      for (const auto found : switches_of(ours, region.anchor))
        result[i][index(found)] = at::full({}, !is_quantized(theirs, other->second), at::kBool);
      result[i][index(value)] = std::move(weight);
      if (is_table_value(ours, region.bias) && is_table_value(theirs, other->second.bias))
        result[i][index(region.bias)] = variant.model.weight(other->second.bias).detach();
    }
  return result;
}

PARE_NAMESPACE_END
