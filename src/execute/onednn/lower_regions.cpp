#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>

#include "execute/onednn/lowering.hpp"
#include "graph/dequantize.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::algorithm;
using dnnl::memory;

void Lowering::lower_region(const FusedRegion& region) {
  if (lower_integer_rows(region)) return;
  const auto& anchor = graph_.node(region.anchor);
  ProgramStep step{.node = region.anchor};
  const auto precision = options_.node_precision.find(anchor.name);
  step.dtype = precision == options_.node_precision.end() ? options_.dtype : precision->second;
  bool lowered = false;
  const bool is_float = region.output != kNoValue && type(region.output).dtype == at::kFloat;
  const bool pure = std::ranges::none_of(region.nodes, [&](NodeId id) { return reads_state(graph_.node(id)); });
  if (is_float && pure && !done_[index(region.anchor)]) {
    switch (region.family) {
      case OpFamily::Convolution:
      case OpFamily::TransposedConvolution:
        lowered = lower_convolution(region, step);
        break;
      case OpFamily::Linear:
        lowered = lower_linear(region, step);
        break;
      case OpFamily::MatrixMultiply:
        lowered = lower_product(region, step);
        break;
      default:
        break;
    }
  }
  if (!lowered || !lower_followers(region, step)) {
    release_padding(anchor);
    for (const auto id : region.nodes)
      if (!done_[index(id)]) lower_node(graph_.node(id));
    return;
  }
  for (const auto id : region.nodes) {
    done_[index(id)] = true;
    if (id != region.anchor) step.absorbed.push_back(id);
  }
  auto result = region.output;
  if (step.kind == StepKind::MatMul) {
    extend_product(step);
    if (!step.absorbed.empty()) result = graph_.node(step.absorbed.back()).output();
  }
  finish(std::move(step), root(result));
}

// A convolution that no kernel runs needs the padding that kernels would have taken in.
void Lowering::release_padding(const Node& convolution) {
  const auto padded = convolution.operands[0].value() == kNoValue ? kNoValue : input(convolution, 0);
  const auto padding = padded == kNoValue ? paddings_.end() : paddings_.find(index(padded));
  if (padding == paddings_.end() || padding->second.released) return;
  padding->second.released = true;
  lower_node(*graph_.producer(padded));
}

// The integers of a table whose scale and fake-quantize are all that stands between it and its reader.
at::Tensor Lowering::stored_integers(const std::vector<NodeId>& path) const {
  if (path.size() == 2 && graph_.node(path[0]).is("pare::dequantize") &&
      family_of(graph_.node(path[1]).op) == OpFamily::FakeQuantize) {
    const auto& node = graph_.node(path[0]);
    const auto sizes = node.operand("sizes").integers();
    return sizes ? unpack_integers(model_.weight(node.input(0)).detach(), *sizes) : at::Tensor();
  }
  if (path.size() != 3 || !scales_integers(graph_, graph_.node(path[1])) ||
      family_of(graph_.node(path[2]).op) != OpFamily::FakeQuantize)
    return {};
  return model_.weight(graph_.node(path[0]).input(0)).detach();
}

// Weight, bias and what of a batch norm stays: everything per output channel. Integers stay integers.
Lowering::Kernel Lowering::kernel_of(const FusedRegion& region, std::int64_t out_axis, bool want_integers) {
  const auto& anchor = graph_.node(region.anchor);
  const auto weight_at = anchor.is("aten::addmm") ? 2 : 1;
  const auto value = anchor.input(static_cast<std::size_t>(weight_at));
  Kernel kernel;
  // Quantized on the way from the table?
  const Node* quantizer = nullptr;
  for (const auto id : region.weight_nodes)
    if (family_of(graph_.node(id).op) == OpFamily::FakeQuantize) quantizer = &graph_.node(id);
  const auto channels = type(value).sizes[static_cast<std::size_t>(out_axis)].constant().value_or(0);
  if (quantizer && want_integers) {
    const bool per_channel = quantizer->op.base() == "aten::fake_quantize_per_channel_affine";
    at::Tensor scale, zero_point;
    if (per_channel) {
      scale = constant(quantizer->input(1)).to(at::kFloat).flatten();
      zero_point = constant(quantizer->input(2));
    } else if (const auto number = quantizer->operand(1).number()) {
      scale = at::full({1}, *number, at::kFloat);
      zero_point = at::full({1}, quantizer->operand("zero_point").integer().value_or(1), at::kLong);
    }
    const bool fits = scale.defined() && (scale.numel() == 1 || scale.numel() == channels) &&
                      quantizer->operand("quant_min").integer().value_or(-999) >= -128 &&
                      quantizer->operand("quant_max").integer().value_or(999) <= 127 &&
                      zero_point.eq(0).all().item<bool>();
    if (const auto stored = stored_integers(region.weight_nodes); fits && stored.defined()) {
      kernel.tensor = stored;
      kernel.scales.assign(scale.data_ptr<float>(), scale.data_ptr<float>() + scale.numel());
    } else if (fits) {
      const auto weight = constant(value).to(at::kFloat);
      std::vector<std::int64_t> shape(static_cast<std::size_t>(weight.dim()), 1);
      if (scale.numel() > 1) shape[static_cast<std::size_t>(out_axis)] = channels;
      const auto integers = at::round(weight.to(at::kDouble) / scale.view(shape).to(at::kDouble)).to(at::kFloat);
      // Exact only when the grid lies along the output channels; anything else stays float.
      if (at::allclose(integers * scale.view(shape), weight, 1e-5, 1e-7)) {
        kernel.tensor = integers.clamp(-128, 127).to(at::kChar);
        kernel.scales.assign(scale.data_ptr<float>(), scale.data_ptr<float>() + scale.numel());
      }
    }
  }
  const auto weight = kernel.tensor.defined() ? at::Tensor() : constant(value).to(at::kFloat);
  if (!kernel.tensor.defined()) kernel.tensor = weight;
  // Float weights on their way to integers are not kept: another reader computes them again.
  for (const auto id : region.weight_nodes) folded_.erase(index(graph_.node(id).output()));
  if (region.bias != kNoValue) kernel.bias = constant(region.bias).to(at::kFloat).flatten();
  if (region.batch_norm == kNoNode) return kernel;

  const auto& norm = graph_.node(region.batch_norm);
  const auto affine = channel_affine(norm);
  kernel.bias = fold_bias(kernel.bias, affine, at::kFloat);
  if (kernel.scales.empty()) {
    kernel.tensor = fold_weight(weight, affine, out_axis, 1);
  } else {
    if (kernel.scales.size() == 1) kernel.scales.assign(static_cast<std::size_t>(channels), kernel.scales[0]);
    for (std::int64_t c = 0; c < channels; ++c)
      kernel.scales[static_cast<std::size_t>(c)] *= static_cast<float>(affine.scale[c].item<double>());
  }
  return kernel;
}

namespace {

// What a source's zero point is multiplied by; undefined for float weights.
at::Tensor sums_over(const at::Tensor& weights, std::vector<std::int64_t> dims) {
  return weights.scalar_type() == at::kChar ? weights.to(at::kLong).sum(dims) : at::Tensor();
}

memory::dims spread(const Operand& operand, std::size_t count, std::int64_t otherwise) {
  auto values = operand.integers().value_or(std::vector<std::int64_t>{});
  if (values.empty()) values.push_back(otherwise);
  if (values.size() == 1) values.resize(count, values[0]);
  return values;
}

}  // namespace

bool Lowering::lower_convolution(const FusedRegion& region, ProgramStep& step) {
  const auto& node = graph_.node(region.anchor);
  const bool transposed = region.family == OpFamily::TransposedConvolution;
  if (region.weight == kNoValue || !is_constant(node.input(1))) return false;
  if (region.bias != kNoValue && !is_constant(region.bias)) return false;
  const auto& weight_type = type(node.input(1));
  const auto rank = weight_type.rank();
  if (rank < 3 || rank > 5 || type(node.input(0)).rank() != rank || is_constant(input(node, 0))) return false;
  const auto spatial = rank - 2;
  auto& window = step.window;
  for (std::size_t d = 2; d < rank; ++d) window.kernel.push_back(*weight_type.sizes[d].constant());
  window.strides = spread(node.operand("stride"), spatial, 1);
  window.dilation = spread(node.operand("dilation"), spatial, 1);
  const auto groups = node.operand("groups").integer();
  if (!groups) return false;
  window.groups = *groups;
  if (const auto* mode = node.operand("padding").get<std::string>()) {
    for (std::size_t d = 0; d < spatial; ++d) {
      const auto total = *mode == "same" ? window.dilation[d] * (window.kernel[d] - 1) : 0;
      window.pads_before.push_back(total / 2);
      window.pads_after.push_back(total - total / 2);
    }
  } else {
    window.pads_before = window.pads_after = spread(node.operand("padding"), spatial, 0);
  }
  window.output_padding.assign(spatial, 0);
  if (transposed) window.output_padding = spread(node.operand("output_padding"), spatial, 0);
  auto source = input(node, 0);
  if (const auto padding = paddings_.find(index(source)); padding != paddings_.end()) {
    source = padding->second.source;
    for (std::size_t d = 0; d < spatial; ++d) {
      window.pads_before[d] += padding->second.before[d];
      window.pads_after[d] += padding->second.after[d];
    }
    step.absorbed.push_back(graph_.producer(input(node, 0))->id);
  }
  step.kind = transposed ? StepKind::Deconvolution : StepKind::Convolution;
  step.inputs = {source};

  if (transposed && window.groups > 1 && region.batch_norm != kNoNode) return false;
  const auto axis = transposed ? 1 : 0;
  const bool integers = program_.quantization[index(source)].has_value() && !(transposed && window.groups > 1);
  auto kernel = kernel_of(region, axis, integers);
  auto tensor = kernel.tensor;
  at::Tensor sums;
  if (!transposed) sums = sums_over(tensor.flatten(1), {1});
  auto sizes = tensor.sizes().vec();
  const auto g = window.groups;
  if (transposed) {  // [I, O/G, ...] -> [G, O/G, I/G, ...]
    std::vector<std::int64_t> split{g, sizes[0] / g, sizes[1]};
    split.insert(split.end(), sizes.begin() + 2, sizes.end());
    tensor = tensor.reshape(split).transpose(1, 2);
  } else {
    std::vector<std::int64_t> split{g, sizes[0] / g, sizes[1]};
    split.insert(split.end(), sizes.begin() + 2, sizes.end());
    tensor = tensor.reshape(split);
  }
  if (g == 1) tensor = tensor.squeeze(0);
  tensor = tensor.contiguous();
  step.weights =
      std::make_shared<PackedWeights>(tensor.clone(), tensor.sizes().vec(), kernel.scales,
                                      kernel.bias.defined() ? kernel.bias.contiguous().clone() : at::Tensor(), sums);
  return true;
}

bool Lowering::lower_linear(const FusedRegion& region, ProgramStep& step) {
  const auto& node = graph_.node(region.anchor);
  const bool is_linear = node.is("aten::linear"), is_addmm = node.is("aten::addmm");
  const std::size_t at = is_addmm ? 1 : 0;
  const auto weight = node.input(at + 1);
  if (!is_constant(weight) || type(weight).rank() != 2) return false;
  if (region.bias != kNoValue && (!is_constant(region.bias) || type(region.bias).rank() > 1)) return false;
  if (is_addmm && (node.operand("beta").number() != 1.0 || node.operand("alpha").number() != 1.0)) return false;
  if (region.batch_norm != kNoNode && type(region.output).rank() != 2) return false;
  const auto source = input(node, at);
  if (type(source).rank() < 1 || type(region.output).rank() != type(source).rank() || is_constant(source)) return false;
  step.kind = StepKind::Linear;
  step.inputs = {source};
  const std::int64_t axis = is_linear ? 0 : 1;
  auto kernel = kernel_of(region, axis, program_.quantization[index(source)].has_value());
  auto tensor = (is_linear ? kernel.tensor.t() : kernel.tensor).contiguous();  // [K, N]
  if (kernel.bias.defined() && kernel.bias.numel() != tensor.size(1))
    kernel.bias = kernel.bias.expand({tensor.size(1)});
  step.weights = std::make_shared<PackedWeights>(
      tensor.clone(), tensor.sizes().vec(), kernel.scales,
      kernel.bias.defined() ? kernel.bias.contiguous().clone() : at::Tensor(), sums_over(tensor, {0}));
  return true;
}

bool Lowering::lower_product(const FusedRegion& region, ProgramStep& step) {
  const auto& node = graph_.node(region.anchor);
  if (node.operands.size() != 2) return false;  // baddbmm and addmm of activations
  const auto rank = type(node.input(0)).rank();
  if (rank < 2 || rank > 6 || type(node.input(1)).rank() != rank || type(region.output).rank() != rank) return false;
  if (type(node.input(0)).dtype != at::kFloat || is_constant(node.input(0)) || is_constant(node.input(1))) return false;
  for (std::size_t d = 0; d + 2 < rank; ++d)
    if (!(type(node.input(0)).sizes[d] == type(node.input(1)).sizes[d])) return false;
  step.kind = StepKind::MatMul;
  step.inputs = {input(node, 0), input(node, 1)};
  return true;
}

bool Lowering::lower_followers(const FusedRegion& region, ProgramStep& step) {
  if (region.residual_add != kNoNode) {
    step.residual = root(region.residual);
    if (is_constant(step.residual)) keep(step.residual);
  }
  if (region.activation != kNoNode) {
    PostOp post;
    if (!activation(graph_.node(region.activation), post)) return false;
    step.post.push_back(post);
  }
  if (region.channel_scale != kNoNode) {
    keep(region.scale);
    step.post.push_back({algorithm::binary_mul, 0, 0, region.scale});
  }
  return true;
}

// Scaling and masking of attention scores: `matmul / sqrt(d) + mask`.
void Lowering::extend_product(ProgramStep& step) {
  auto value = step.absorbed.empty() ? graph_.node(step.node).output() : graph_.node(step.absorbed.back()).output();
  for (;;) {
    const auto uses = users(value);
    if (uses.size() != 1 || uses[0] == kNoNode || quantizer_.contains(index(value))) return;
    const auto& node = graph_.node(uses[0]);
    if (node.barrier || done_[index(node.id)] || node.outputs.size() != 1) return;
    PostOp post;
    if ((node.is("aten::mul") || node.is("aten::div.Scalar") || node.is("aten::div.Tensor")) &&
        input(node, 0) == value && scalar(node.operand(1))) {
      const auto factor = *scalar(node.operand(1));
      post = {algorithm::eltwise_linear, static_cast<float>(node.is("aten::mul") ? factor : 1 / factor), 0, kNoValue};
    } else if (node.is("aten::add.Tensor") && node.operand(2).number() == 1.0) {
      const auto other = input(node, 0) == value ? input(node, 1) : input(node, 0);
      if (other == kNoValue || type(other).dtype != at::kFloat || type(other).rank() > type(value).rank() ||
          !(type(node.output()) == type(value)) || other == value || graph_.value(other).kind == ValueKind::Weight ||
          is_constant(other))
        return;
      // The mask must exist before the product runs.
      const auto* producer = graph_.producer(other);
      const auto& order = graph_.nodes();
      if (producer && std::ranges::find(order, producer->id) > std::ranges::find(order, step.node)) return;
      post = {algorithm::binary_add, 0, 0, other};
    } else {
      return;
    }
    step.post.push_back(post);
    step.absorbed.push_back(node.id);
    done_[index(node.id)] = true;
    value = node.output();
  }
}

namespace {

// Functions without a parameter.
std::optional<algorithm> plain_function(std::string_view name) {
  using Row = std::pair<std::string_view, algorithm>;
  static constexpr std::array<Row, 6> table{{{"aten::mish", algorithm::eltwise_mish},
                                             {"aten::exp", algorithm::eltwise_exp},
                                             {"aten::abs", algorithm::eltwise_abs},
                                             {"aten::sqrt", algorithm::eltwise_sqrt},
                                             {"aten::square", algorithm::eltwise_square},
                                             {"aten::log", algorithm::eltwise_log}}};
  const auto found = std::ranges::find(table, name, &Row::first);
  return found == table.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace

bool Lowering::activation(const Node& node, PostOp& post) {
  constexpr float kNoBound = std::numeric_limits<float>::max();
  bool known = true;  // a bound that is computed is no kernel's parameter
  const auto bound = [&](std::string_view name, float otherwise) {
    const auto& operand = node.operand(name);
    const auto number = scalar(operand);
    known = known && (number || operand.is_none());
    return number ? static_cast<float>(*number) : otherwise;
  };
  const auto base = node.op.base();
  if (base == "aten::relu") {
    post = {algorithm::eltwise_relu, 0, 0, kNoValue};
  } else if (base == "aten::relu6") {
    post = {algorithm::eltwise_clip, 0, 6, kNoValue};
  } else if (base == "aten::hardtanh") {
    post = {algorithm::eltwise_clip, bound("min_val", -1), bound("max_val", 1), kNoValue};
  } else if (node.op.name() == "aten::clamp") {
    post = {algorithm::eltwise_clip, bound("min", -kNoBound), bound("max", kNoBound), kNoValue};
  } else if (node.op.name() == "aten::clamp_min") {
    post = {algorithm::eltwise_clip, bound("min", -kNoBound), kNoBound, kNoValue};
  } else if (base == "aten::hardswish") {
    post = {algorithm::eltwise_hardswish, 1.0F / 6, 0.5F, kNoValue};
  } else if (base == "aten::hardsigmoid") {
    post = {algorithm::eltwise_hardsigmoid, 1.0F / 6, 0.5F, kNoValue};
  } else if (base == "aten::silu") {
    post = {algorithm::eltwise_swish, 1, 0, kNoValue};
  } else if (base == "aten::sigmoid") {
    post = {algorithm::eltwise_logistic, 0, 0, kNoValue};
  } else if (base == "aten::tanh") {
    post = {algorithm::eltwise_tanh, 0, 0, kNoValue};
  } else if (base == "aten::leaky_relu") {
    post = {algorithm::eltwise_relu, bound("negative_slope", 0.01F), 0, kNoValue};
  } else if (base == "aten::elu") {
    if (bound("scale", 1) != 1 || bound("input_scale", 1) != 1) return false;
    post = {algorithm::eltwise_elu, bound("alpha", 1), 0, kNoValue};
  } else if (base == "aten::gelu") {
    const auto* kind = node.operand("approximate").get<std::string>();
    post = {kind && *kind == "tanh" ? algorithm::eltwise_gelu_tanh : algorithm::eltwise_gelu_erf, 0, 0, kNoValue};
  } else if (const auto plain = plain_function(node.op.name())) {
    post = {*plain, 0, 0, kNoValue};
  } else if (base == "aten::softplus") {
    if (bound("threshold", 20) < 16) return false;  // above it the op is the identity, which the kernel nears
    post = {algorithm::eltwise_soft_relu, bound("beta", 1), 0, kNoValue};
  } else if (base == "aten::log_sigmoid") {
    post = {algorithm::eltwise_soft_relu, -1, 0, kNoValue};
  } else if (base == "aten::neg") {
    post = {algorithm::eltwise_linear, -1, 0, kNoValue};
  } else if (node.op.name() == "aten::clamp_max") {
    post = {algorithm::eltwise_clip, -kNoBound, bound("max", kNoBound), kNoValue};
  } else {
    return false;
  }
  return known;
}

// A fake-quantize on the result is done by the step itself.
void Lowering::finish(ProgramStep step, ValueId result) {
  if (const auto quantizer = quantizer_.find(index(result)); quantizer != quantizer_.end()) {
    step.absorbed.push_back(quantizer->second);
    done_[index(quantizer->second)] = true;
    result = graph_.node(quantizer->second).output();
  }
  step.outputs = {result};
  program_.steps.push_back(std::move(step));
}

PARE_NAMESPACE_END
