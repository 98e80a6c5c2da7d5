#pragma once

#include <unordered_map>
#include <vector>

#include "pare/core/batches.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Tensors that take the place of a model's values, by `index(ValueId)`.
using Replacements = std::unordered_map<std::size_t, at::Tensor>;

/// Outputs of a model: one entry for each batch, each with the model's outputs.
using BatchOutputs = std::vector<std::vector<at::Tensor>>;

/// Runs a model on many batches up to a node, and from there to the end as often as wanted: what lies before a change
/// is computed once.
///
/// Between two positions only the values that later nodes read are kept, for every batch. What depends on weights alone
/// (fake-quantized weights) is computed once for all batches. In evaluation mode, without gradients.
class PrefixReplay {
 public:
  /// Before the first node. The batches are kept.
  /// @param around values of the model that are others throughout
  /// @throws Error as `Model::run`
  PrefixReplay(const Model& model, const Batches& batches, const Replacements& around = {});

  /// Runs every batch up to `node`, which is the next to run. Goes forward only: a node already run changes nothing.
  void advance(NodeId node);
  /// The outputs of every batch with these values replaced from here on. A replaced value must not have been read by a
  /// node that is run already, unless it is a weight or computed from weights alone.
  [[nodiscard]] BatchOutputs outputs(const Replacements& replaced = {}) const;
  /// The first node that reads one of the values on the way from the inputs, or `kNoNode`.
  [[nodiscard]] NodeId first_reader(const Replacements& replaced) const;
  /// Samples of a batch: the size of its first input along the first axis.
  [[nodiscard]] const std::vector<std::int64_t>& samples() const noexcept { return samples_; }

 private:
  struct State {
    std::vector<std::int64_t> dims;
    std::vector<at::Tensor> values;  // by index of ValueId; those still needed
  };
  void find_constants(const Replacements& around);
  void run(std::size_t step, State& state, const std::vector<at::Tensor>& constants) const;

  Model model_;
  std::vector<State> states_;
  std::vector<std::int64_t> samples_;
  std::vector<NodeId> constant_nodes_, nodes_;  // computed once; run for every batch
  std::vector<at::Tensor> constants_;           // weights and what follows from them alone
  std::vector<std::vector<ValueId>> last_use_;  // parallel to `nodes_`
  std::size_t position_ = 0;
};

PARE_NAMESPACE_END
