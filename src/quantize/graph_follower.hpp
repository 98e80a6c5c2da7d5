#pragma once

#include <torch/nn/module.h>

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "simulated_forward.hpp"
#include "trainable_quantization.hpp"

PARE_NAMESPACE_BEGIN

/// Follows a forward along the graph that was captured of it: a call is the node of the same op whose operands are the
/// tensors at hand, weights by identity, results by what earlier calls were.
class GraphFollower final : public SimulatedForward {
 public:
  /// @param module its training flag says whether a forward is a step
  /// @param watched the graph as it was captured: the calls that the forward makes
  GraphFollower(const torch::nn::Module& module, Graph watched, TrainableQuantization training);

  void forward_call(const c10::OperatorHandle& op, torch::jit::Stack& stack) override;
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> range_parameters() const override {
    return training_.range_parameters();
  }
  [[nodiscard]] std::map<std::string, at::Tensor> state() const override { return training_.range_state(); }
  void load_state(const std::map<std::string, at::Tensor>& state) override { training_.load_range_state(state); }
  [[nodiscard]] Model convert() const { return training_.convert(); }
  /// The name of a fake-quantize that the last forward did not come by, or an empty string.
  [[nodiscard]] std::string missed() const;

 private:
  /// One operand of a node that reads a rounded value.
  struct Rounded {
    std::size_t operand = 0;
    std::size_t position = 0;  // in a list of tensors
    ValueId value = kNoValue;  // of the quantized graph
  };
  using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl>;
  /// What a fake-quantize read and made. Where the backward pass keeps what was made, it alone does: memory is free
  /// again as soon as the pass is through with it.
  struct Done {
    WeakTensor read, made;
    at::Tensor kept = {};
  };
  struct Bound {
    WeakTensor alive;  // keeps the address from being used again
    std::vector<ValueId> values;
  };

  void plan();
  [[nodiscard]] NodeId find(const std::string& name, const torch::jit::Stack& stack, std::size_t count) const;
  [[nodiscard]] int fit(const Node& node, const c10::IValue* arguments) const;
  [[nodiscard]] bool is_bound(const at::Tensor& tensor, ValueId value) const;
  void bind(const at::Tensor& tensor, ValueId value, bool written);
  void start(NodeId node);
  void call_node(const Node& node, const std::vector<Rounded>& rounded, const c10::OperatorHandle& op,
                 torch::jit::Stack& stack, bool writes);
  void call_written_out(const Node& node, const std::vector<NodeId>& steps, torch::jit::Stack& stack);
  [[nodiscard]] const std::vector<Rounded>& rounded_operands(NodeId node) const;
  [[nodiscard]] at::Tensor rounded_value(ValueId value, const at::Tensor& tensor);

  const torch::nn::Module& module_;
  Graph watched_;
  TrainableQuantization training_;
  std::unordered_map<std::string, std::vector<NodeId>> nodes_;          // by op, without the mark of writing in place
  std::unordered_map<std::size_t, std::vector<Rounded>> rounded_;       // by node
  std::unordered_map<std::size_t, std::vector<NodeId>> written_out_;    // a call -> the nodes that compute it now
  std::unordered_map<std::size_t, const c10::TensorImpl*> parameters_;  // weight value -> the module's tensor
  std::unordered_map<const c10::TensorImpl*, Bound> bound_;             // of this forward
  std::unordered_map<std::size_t, Done> done_;                          // by fake-quantize, of this forward
  std::unordered_set<std::size_t> visited_;                             // nodes of this forward
  bool stepped_ = false;
};

PARE_NAMESPACE_END
