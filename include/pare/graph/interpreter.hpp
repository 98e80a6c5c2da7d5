#pragma once

#include <ATen/core/ivalue.h>

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Runs a node in place of its operator: takes the arguments from the stack and leaves the results there, or returns
/// false and leaves the stack as it was. For training, which computes some nodes in a form that learns.
using NodeOverride = std::function<bool(const Node&, std::vector<c10::IValue>& stack)>;

/// Replays a graph call by call through the dispatcher: the reference execution, bit-identical to the module's forward.
///
/// Prepared once for a graph: constants are boxed, values are released after their last use, and without autograd an
/// operator writes over a first operand that nothing else holds, as `relu_` in the module did. Immutable, so any number
/// of threads may run it.
class Interpreter {
 public:
  explicit Interpreter(const Graph& graph);
  /// One tensor for each weight value of the graph is read from `weights`. Errors as `Model::run`.
  [[nodiscard]] std::vector<at::Tensor> run(const Graph& graph, const Weights& weights, bool training,
                                            const std::vector<at::Tensor>& inputs, const Tap& tap,
                                            const NodeOverride& override_node = {}) const;
  /// The sizes of the graph's dims in these inputs. @throws Error as `Model::run`.
  static std::vector<std::int64_t> bind_dims(const Graph& graph, const std::vector<at::Tensor>& inputs);
  /// One node on given tensors (for analyses that re-run a layer): `lookup` provides each operand's value.
  static std::vector<at::Tensor> call(const Node& node, std::span<const std::int64_t> dims, bool training,
                                      const std::function<at::Tensor(ValueId)>& lookup);

 private:
  struct Step {
    std::optional<c10::OperatorHandle> in_place = {};  // for a first operand that nothing needs afterwards
    std::vector<c10::IValue> constants;  // boxed operands; those that depend on values, dims or the mode are filled in
    std::vector<std::size_t> variable;   // the positions of those
    std::vector<ValueId> last_use;       // values released after this step
  };
  std::vector<Step> steps_;  // parallel to graph.nodes()
  std::vector<ValueId> weights_;
};

PARE_NAMESPACE_END
