#include "pare/graph/weight_axis.hpp"

PARE_NAMESPACE_BEGIN

std::optional<std::int64_t> output_axis(const Graph& graph, const FusedRegion& region) {
  if (region.weight == kNoValue) return std::nullopt;
  const auto rank = graph.value(region.weight).type.rank();
  bool swapped = false;
  for (const auto id : region.weight_nodes) {
    const auto& node = graph.node(id);
    if (family_of(node.op) == OpFamily::FakeQuantize || node.is("aten::alias") || node.is("aten::detach") ||
        node.is("aten::contiguous"))
      continue;
    const bool transposes = node.is("aten::t") || node.is("aten::numpy_T") || node.is("aten::transpose");
    if (!transposes || rank != 2) return std::nullopt;
    swapped = !swapped;
  }
  const auto& anchor = graph.node(region.anchor);
  switch (region.family) {
    case OpFamily::Convolution:
      return swapped ? 1 : 0;
    case OpFamily::TransposedConvolution:
      return swapped ? 0 : 1;
    case OpFamily::Embedding:
      return 0;
    case OpFamily::Linear:
      if (rank != 2) return std::nullopt;
      return anchor.is("aten::linear") == swapped ? 1 : 0;
    default:
      return std::nullopt;
  }
}

bool owns_weight(const Graph& graph, const FusedRegion& region) {
  const auto read_once = [&](ValueId value) {
    return std::ranges::count_if(graph.uses(value), [&](const Use& use) {
             return use.node == kNoNode || graph.node(use.node).condition != Condition::Training;
           }) == 1;
  };
  return region.weight != kNoValue && graph.value(region.weight).kind == ValueKind::Weight &&
         read_once(region.weight) &&
         std::ranges::all_of(region.weight_nodes, [&](NodeId id) { return read_once(graph.node(id).output()); });
}

std::int64_t groups_of(const Graph& graph, const FusedRegion& region) {
  const auto& anchor = graph.node(region.anchor);
  if (region.family != OpFamily::Convolution && region.family != OpFamily::TransposedConvolution) return 1;
  return anchor.operand("groups").integer().value_or(1);
}

PARE_NAMESPACE_END
