#pragma once

#include <functional>
#include <vector>

#include "pare/core/batches.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// A model in the middle of a run over several batches: the values that later nodes still read. Going on from here
/// costs only the nodes ahead, so layers can be looked at one after the other, and changed, without starting again.
///
/// In evaluation mode. Copies share tensors.
class Frontier {
 public:
  /// Keeps `model`'s graph; weights are those of the model given to `advance`.
  Frontier(Model model, const std::vector<Batch>& batches);

  /// Runs every node before `until` that has not run yet, with the weights of `model`. @pre same graph
  void advance(const Model& model, NodeId until);
  /// Runs to the end. @return the outputs, batch by batch
  std::vector<std::vector<at::Tensor>> finish(const Model& model);
  [[nodiscard]] std::size_t size() const noexcept { return runs_.size(); }
  /// Computes nodes again that have run already and depend on weights alone: a weight was changed behind them.
  void repeat(const Model& model, const std::vector<NodeId>& nodes);
  /// A value that is alive here, of one batch; an undefined tensor where it is not.
  [[nodiscard]] const at::Tensor& value(std::size_t batch, ValueId id) const { return runs_[batch].values[index(id)]; }

 private:
  struct Run {
    std::vector<at::Tensor> values;
    std::vector<std::int64_t> dims;
  };
  void step(const Model& model, NodeId node);
  bool is_shared(const Node& node) const;

  Model model_;  // for its graph: another's edits do not reach it
  std::vector<Run> runs_;
  std::vector<std::size_t> last_use_;  // by value: position in the order of nodes
  std::vector<bool> shared_;           // by value: depends on weights alone, so that all batches hold one tensor
  std::size_t position_ = 0;
};

PARE_NAMESPACE_END
