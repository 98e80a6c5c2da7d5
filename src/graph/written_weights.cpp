#include "graph/written_weights.hpp"

PARE_NAMESPACE_BEGIN

std::vector<ValueId> written_weights(const Graph& graph, const Node& node) {
  std::vector<ValueId> written;
  if (!node.barrier) return written;  // every other write was made pure
  const auto& arguments = node.op.schema().arguments();
  for (std::size_t i = 0; i < node.operands.size() && i < arguments.size(); ++i) {
    const auto* alias = arguments[i].alias_info();
    if (alias == nullptr || !alias->isWrite()) continue;
    auto value = node.operands[i].value();
    while (const auto* view = value == kNoValue ? nullptr : graph.producer(value))
      value = view->operands.empty() ? kNoValue : view->operands[0].value();
    if (value != kNoValue && graph.value(value).kind == ValueKind::Weight) written.push_back(value);
  }
  return written;
}

PARE_NAMESPACE_END
