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

std::int64_t groups_of(const Graph& graph, const FusedRegion& region) {
  const auto& anchor = graph.node(region.anchor);
  if (region.family != OpFamily::Convolution && region.family != OpFamily::TransposedConvolution) return 1;
  return anchor.operand("groups").integer().value_or(1);
}

PARE_NAMESPACE_END
