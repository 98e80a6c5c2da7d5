#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "execute/onednn/integer_rows.hpp"
#include "execute/onednn/packed_weights.hpp"
#include "pare/execute/compile_options.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// How an integer value stands for real ones: `real = scale * (q - zero_point)`.
struct Quantization {
  float scale = 1;
  int zero_point = 0;
  bool is_signed = false;  ///< s8, or u8
  [[nodiscard]] float lowest() const { return scale * static_cast<float>((is_signed ? -128 : 0) - zero_point); }
  [[nodiscard]] float highest() const { return scale * static_cast<float>((is_signed ? 127 : 255) - zero_point); }
  [[nodiscard]] dnnl::memory::data_type type() const {
    return is_signed ? dnnl::memory::data_type::s8 : dnnl::memory::data_type::u8;
  }
  friend bool operator==(const Quantization&, const Quantization&) = default;
};

enum class StepKind : std::uint8_t {
  Aten,
  View,
  Convolution,
  Deconvolution,
  Linear,
  IntegerRows,
  MatMul,
  Binary,
  ChannelAffine,
  Recurrent,
  Eltwise,
  Pooling,
  SpatialMean,
  LayerNorm,
  Softmax,
  Concat,
  Quantize,
  Embedding,
};

/// Elementwise work done on a kernel's result before it is stored.
struct PostOp {
  dnnl::algorithm algorithm{};
  float alpha = 0, beta = 0;
  ValueId other = kNoValue;  ///< second operand of a binary post-op
};

/// Geometry of convolutions and pooling, over the spatial dims.
struct Window {
  dnnl::memory::dims kernel, strides, dilation, pads_before, pads_after, output_padding;
  std::int64_t groups = 1;
};

/// Rows of s8 integers with a scale each, `[rows, 1]`: a weight that is made numbers when it is read.
struct IntegerTable {
  at::Tensor integers, scale;
  [[nodiscard]] std::size_t nbytes() const { return integers.nbytes() + scale.nbytes(); }
};

/// A matrix of a recurrent layer: numbers, or integers that are made numbers before every call.
struct RecurrentMatrix {
  std::shared_ptr<PackedWeights> numbers;  ///< `[1, directions, in, gates, hidden]`
  IntegerTable integers;                   ///< in place of them: `[directions * in, gates * hidden]`, scales likewise
  std::int64_t in = 0;
};

/// One layer of an LSTM or GRU, both directions, its gates in oneDNN's order.
struct RecurrentLayer {
  RecurrentMatrix input, hidden;
  at::Tensor bias;  ///< `[directions, gates, hidden]`, four gates for a GRU, too
};

/// An LSTM or GRU as one step.
struct RecurrentStack {
  std::vector<RecurrentLayer> layers;
  bool gated_cell = false;  ///< LSTM
  bool batch_first = false;
  std::int64_t directions = 1, hidden = 0;
  [[nodiscard]] std::int64_t gates() const { return gated_cell ? 4 : 3; }
};

/// One step of a model, whatever the sizes.
struct ProgramStep {
  StepKind kind = StepKind::Aten;
  NodeId node = kNoNode;           ///< main node
  std::vector<NodeId> absorbed{};  ///< other nodes whose work this step does
  std::vector<ValueId> inputs{};   ///< roots
  std::vector<ValueId> outputs{};  ///< roots; one, but for ATen and views
  std::vector<PostOp> post{};
  ValueId residual = kNoValue;  ///< summed in before `post`
  Window window{};
  dnnl::algorithm algorithm{};  ///< of Binary, Eltwise, Pooling
  float alpha = 0, beta = 0;    ///< of Eltwise; epsilon of LayerNorm is alpha
  std::int64_t axis = 0;        ///< of Softmax, Concat; dims normalised by LayerNorm
  std::shared_ptr<PackedWeights> weights{};
  std::shared_ptr<const IntegerRows> rows{};  ///< of IntegerRows, and of Embedding in place of `table`
  at::Tensor gamma{}, beta_tensor{};          ///< of LayerNorm and ChannelAffine
  IntegerTable table{};                       ///< of Embedding
  std::shared_ptr<const RecurrentStack> recurrent{};
  c10::ScalarType dtype = c10::ScalarType::Float;
  std::string reason{};  ///< why on ATen
};

/// A model lowered to steps: fused, with integer values known. Independent of sizes; shared by all plans.
struct Program {
  Graph graph;
  bool tune = true;  ///< plans time the kernels that could run a step
  std::vector<ProgramStep> steps;
  std::vector<ValueId> root;                                  ///< by ValueId: what a value is an alias of
  std::vector<std::optional<Quantization>> quantization;      ///< by ValueId
  std::unordered_map<std::size_t, at::Tensor> constants;      ///< by ValueId: tensors that ATen steps and binaries read
  std::set<ValueId> state = {};                               ///< those of `constants` that a call changes
  std::unordered_map<std::size_t, IntegerTable> packed = {};  ///< by ValueId: weights that recurrent steps read

  [[nodiscard]] ValueId root_of(ValueId value) const { return value == kNoValue ? value : root[index(value)]; }
};

/// Lowers a model in evaluation mode.
Program lower(const Model& model, const CompileOptions& options);

PARE_NAMESPACE_END
