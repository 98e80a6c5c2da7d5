#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "pare/graph/graph.hpp"

PARE_NAMESPACE_BEGIN

/// Builds a `Graph` from nothing, front to back: for capture, for the parser, for tests.
class GraphBuilder {
 public:
  /// Declares a symbolic dim; the example size is what cost estimates use, a size below the smallest is refused.
  std::uint32_t dim(std::string name, std::int64_t example, std::int64_t smallest = 0);
  ValueId input(std::string name, TensorType type);
  ValueId weight(std::string path, TensorType type);
  /// Appends a node; `types` has one entry for each output. @return the node's id.
  NodeId node(Op op, std::vector<Operand> operands, std::vector<TensorType> types, std::string name = {},
              std::string module = {});
  /// The node just added, to set its condition or barrier.
  Node& last();
  ValueId output_of(NodeId node, std::size_t position = 0) const;
  void output(ValueId value);
  [[nodiscard]] const Graph& graph() const noexcept { return graph_; }
  /// Hands the graph over; node names are made unique (`relu`, `relu_1`, …).
  Graph finish() &&;

 private:
  Graph graph_;
  std::unordered_map<std::string, ValueId> weights_;  // by path
};

PARE_NAMESPACE_END
