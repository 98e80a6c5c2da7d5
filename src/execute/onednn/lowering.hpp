#pragma once

#include <set>
#include <vector>

#include "execute/onednn/program.hpp"
#include "pare/numerics/batch_norm_folding.hpp"

PARE_NAMESPACE_BEGIN

/// Turns a graph into a `Program`: aliases resolved, constants folded, regions fused, fake-quantize nodes turned into
/// integer values.
class Lowering {
 public:
  Lowering(const Model& model, const CompileOptions& options);
  Program run();

 private:
  // Facts about values (lowering.cpp).
  void find_state();
  void find_aliases();
  void find_paddings();
  void absorb_quantizations();
  void use_signed_products();
  std::optional<Quantization> quantization_of(const Node& fake_quantize) const;
  std::optional<Quantization> passed_on(const Node& node) const;
  bool is_constant(ValueId value) const;
  const at::Tensor& constant(ValueId value);
  void keep(ValueId constant);
  bool reads_state(const Node& node) const;
  ChannelAffine channel_affine(const Node& batch_norm);
  std::optional<double> scalar(const Operand& operand);
  ValueId root(ValueId value) const { return program_.root_of(value); }
  ValueId input(const Node& node, std::size_t position) const { return root(node.input(position)); }
  const TensorType& type(ValueId value) const { return graph_.value(value).type; }
  std::vector<NodeId> users(ValueId root) const;
  bool is_output(ValueId root) const;

  // Steps (lower_regions.cpp, lower_integer_rows.cpp, lower_nodes.cpp, lower_recurrent.cpp).
  void lower_region(const FusedRegion& region);
  void release_padding(const Node& convolution);
  bool lower_convolution(const FusedRegion& region, ProgramStep& step);
  bool lower_linear(const FusedRegion& region, ProgramStep& step);
  std::optional<IntegerRows> integer_rows(ValueId weight, bool turned);
  at::Tensor codes_of(const std::vector<NodeId>& path, std::size_t quantizer, int bits);
  bool lower_integer_rows(const FusedRegion& region);
  bool lower_product(const FusedRegion& region, ProgramStep& step);
  bool lower_followers(const FusedRegion& region, ProgramStep& step);
  void extend_product(ProgramStep& step);
  struct Kernel {
    at::Tensor tensor;          // float, or integers
    std::vector<float> scales;  // of integers
    at::Tensor bias;
  };
  at::Tensor stored_integers(const std::vector<NodeId>& path) const;
  Kernel kernel_of(const FusedRegion& region, std::int64_t out_axis, bool want_integers);
  void lower_node(const Node& node);
  bool lower_elementwise(const Node& node, ProgramStep& step);
  bool lower_binary(const Node& node, ProgramStep& step);
  bool lower_batch_norm(const Node& node, ProgramStep& step);
  void absorb_activation(const Node& node, ProgramStep& step);
  bool lower_pooling(const Node& node, ProgramStep& step);
  bool lower_mean(const Node& node, ProgramStep& step);
  bool lower_normalization(const Node& node, ProgramStep& step);
  std::optional<IntegerTable> integer_table(ValueId value);
  bool lower_embedding(const Node& node, ProgramStep& step);
  bool lower_row_lookup(const Node& node, ProgramStep& step);
  bool lower_recurrent(const Node& node);
  std::shared_ptr<RecurrentStack> recurrent_stack(const std::vector<ValueId>& parameters, RecurrentStack shape,
                                                  std::int64_t layers, bool biases);
  RecurrentMatrix recurrent_matrix(const std::vector<ValueId>& weights, std::int64_t gates);
  bool activation(const Node& node, PostOp& post);
  void finish(ProgramStep step, ValueId result);
  void run_on_aten(const Node& node, std::string reason);

  const Model& model_;
  const CompileOptions& options_;
  Program program_;
  const Graph& graph_;
  std::vector<bool> done_;                                     // by NodeId: absorbed by a step
  std::unordered_map<std::size_t, at::Tensor> folded_;         // by ValueId
  std::unordered_map<std::size_t, IntegerRows> integer_rows_;  // by ValueId: what their fake-quantize gives
  std::unordered_map<std::size_t, NodeId> quantizer_;          // by ValueId: the fake-quantize that stores it
  struct Padding {
    ValueId source;
    dnnl::memory::dims before, after;
    bool released = false;  // runs by itself, too, for a convolution on ATen
  };
  std::unordered_map<std::size_t, Padding> paddings_;  // by ValueId: zero padding that convolutions take in
};

PARE_NAMESPACE_END
