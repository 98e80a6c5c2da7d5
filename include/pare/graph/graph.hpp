#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pare/graph/node.hpp"
#include "pare/graph/value.hpp"

PARE_NAMESPACE_BEGIN

/// One place where a value is used.
struct Use {
  NodeId node;          ///< `kNoNode`: the value is an output of the model
  std::size_t operand;  ///< position in the node's operands, or in the model's outputs
  friend bool operator==(const Use&, const Use&) = default;
};

/// A model's computation: nodes in an order of execution, over SSA values.
///
/// Read-only for everyone but `Rewriter` and the builders that construct one (`GraphBuilder`). Ids stay valid while
/// the graph is edited; `nodes()` returns a snapshot, so a pass may edit while it iterates.
class Graph {
 public:
  Graph();
  Graph(const Graph& other);
  Graph(Graph&& other) noexcept;
  Graph& operator=(const Graph& other);
  Graph& operator=(Graph&& other) noexcept;
  ~Graph();

  /// The nodes in order.
  [[nodiscard]] const std::vector<NodeId>& nodes() const noexcept { return order_; }
  /// The nodes that call `name`, in order: a snapshot.
  [[nodiscard]] std::vector<NodeId> nodes(OpName name) const;
  /// @pre the node exists: erased ids throw Error `pare.graph.103`.
  [[nodiscard]] const Node& node(NodeId id) const;
  [[nodiscard]] bool contains(NodeId id) const noexcept;
  /// @throws Error `pare.graph.103` for an id that is not of this graph.
  [[nodiscard]] const Value& value(ValueId id) const;
  [[nodiscard]] std::size_t value_count() const noexcept { return values_.size(); }
  /// The node that computes a value, or null for inputs and weights.
  [[nodiscard]] const Node* producer(ValueId id) const;
  /// Where a value is used, in order of execution; outputs of the model last.
  [[nodiscard]] const std::vector<Use>& uses(ValueId id) const;
  /// The value of a weight's path, or `kNoValue`.
  [[nodiscard]] ValueId weight(std::string_view path) const noexcept;
  /// The node with this layer name, or `kNoNode`.
  [[nodiscard]] NodeId find(std::string_view name) const noexcept;

  [[nodiscard]] const std::vector<ValueId>& inputs() const noexcept { return inputs_; }
  [[nodiscard]] const std::vector<ValueId>& outputs() const noexcept { return outputs_; }
  /// Names of the symbolic dims, e.g. `batch`.
  [[nodiscard]] const std::vector<std::string>& dims() const noexcept { return dims_; }
  /// Whether a value is a weight that one operand alone reads: rewriting it changes nothing else. False for `kNoValue`.
  [[nodiscard]] bool is_own_weight(ValueId id) const;
  /// The sizes the graph was captured at, one for each dim: an example binding for cost estimates.
  [[nodiscard]] const std::vector<std::int64_t>& example_dims() const noexcept { return example_dims_; }
  /// The smallest size at which the graph says what the module does, one for each dim; mostly 0.
  [[nodiscard]] const std::vector<std::int64_t>& smallest_dims() const noexcept { return smallest_dims_; }

 private:
  friend class Rewriter;
  friend class GraphBuilder;

  std::vector<Node> nodes_;  // by NodeId; erased nodes keep their slot
  std::vector<bool> alive_;
  std::vector<NodeId> order_;
  std::vector<Value> values_;  // by ValueId
  std::vector<ValueId> inputs_;
  std::vector<ValueId> outputs_;
  std::vector<std::string> dims_;
  std::vector<std::int64_t> example_dims_;
  std::vector<std::int64_t> smallest_dims_;
  // Built on demand, maybe by another thread while this graph is copied: copies build their own.
  struct UseCache {
    std::vector<std::vector<Use>> uses;
    bool valid = false;

    UseCache() = default;
    UseCache(const UseCache& /*other*/) {}
    UseCache& operator=(const UseCache& /*other*/) {
      valid = false;
      return *this;
    }
    ~UseCache() = default;
  };
  mutable UseCache uses_;  // dropped by edits
};

PARE_NAMESPACE_END
