// Convolutions and matrix products.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

Ints both_ends(const Ints& pads) {
  auto all = pads;
  all.insert(all.end(), pads.begin(), pads.end());
  return all;
}

struct Convolution {
  std::size_t stride, padding, dilation, groups;
  std::size_t output_padding = 0;
  bool transposed = false;
};

void write_convolution(Emitter& out, const Node& node, const Convolution& at) {
  const auto& weight = out.type(node.input(1));
  const auto rank = weight.rank();
  if (out.type(node.input(0)).rank() != rank) Emitter::refuse(node, "the input has no batch dimension");
  Ints kernel;
  for (std::size_t d = 2; d < rank; ++d) kernel.push_back(weight.sizes[d].constant().value_or(0));
  const auto spatial = rank - 2;
  const auto dilation = spread(integers_of(node, at.dilation), spatial);
  Ints pads;
  if (const auto* mode = node.operand(at.padding).get<std::string>()) {
    const bool same = *mode == "same";
    Ints after;
    for (std::size_t d = 0; d < spatial; ++d) {
      const auto total = same ? dilation[d] * (kernel[d] - 1) : 0;
      pads.push_back(total / 2);
      after.push_back(total - total / 2);
    }
    pads.insert(pads.end(), after.begin(), after.end());
  } else {
    pads = both_ends(spread(integers_of(node, at.padding), spatial));
  }
  const auto groups = integer_of(node, at.groups);
  Attributes attributes{{"kernel_shape", kernel},
                        {"strides", spread(integers_of(node, at.stride), spatial)},
                        {"dilations", dilation},
                        {"pads", pads},
                        {"group", groups}};
  if (at.transposed) attributes.emplace_back("output_padding", spread(integers_of(node, at.output_padding), spatial));
  const auto channels =
      at.transposed ? weight.sizes[1].constant().value_or(0) * groups : weight.sizes[0].constant().value_or(0);
  Names inputs{out.input(node, 0), out.input(node, 1)};
  if (const auto bias = node.input(2); bias != kNoValue)
    inputs.push_back(bias_of(out, bias, node.input(0), node.input(1), channels));
  out.result(node, at.transposed ? "ConvTranspose" : "Conv", std::move(inputs), std::move(attributes));
}

void convolution(Emitter& out, const Node& node) {
  write_convolution(out, node, {.stride = 3, .padding = 4, .dilation = 5, .groups = 6});
}

void transposed_convolution(Emitter& out, const Node& node) {
  write_convolution(out, node,
                    {.stride = 3, .padding = 4, .dilation = 7, .groups = 6, .output_padding = 5, .transposed = true});
}

// input, weight, bias, stride, padding, dilation, transposed, output_padding, groups
void general_convolution(Emitter& out, const Node& node) {
  const bool transposed = node.operand(6).boolean().value_or(false);
  write_convolution(
      out, node,
      {.stride = 3, .padding = 4, .dilation = 5, .groups = 8, .output_padding = 7, .transposed = transposed});
}

// A two-dimensional product with a bias. `weight` may be a transposed table entry: Gemm takes it as it is stored.
void gemm(Emitter& out, const Node& node, ValueId source, ValueId weight, ValueId bias, bool transposed) {
  if (const auto* producer = out.graph().producer(weight);
      producer && producer->is("aten::t") && out.constant(producer->input(0))) {
    weight = producer->input(0);
    transposed = !transposed;
  }
  Names inputs{out.value(source), out.value(weight)};
  if (bias != kNoValue)
    inputs.push_back(
        bias_of(out, bias, source, weight, out.type(weight).sizes[transposed ? 0 : 1].constant().value_or(0)));
  out.result(node, "Gemm", std::move(inputs), {{"transB", static_cast<std::int64_t>(transposed)}});
}

// Overloads that sum in a wider type than they read.
void refuse_wider(const Node& node) {
  if (node.op.argument("out_dtype") >= 0) Emitter::refuse(node, "a product of another type than its factors");
}

void addmm(Emitter& out, const Node& node) {
  refuse_wider(node);
  if (node.operand("beta").number() != 1.0 || node.operand("alpha").number() != 1.0) {
    const auto scaled = [&](const std::string& name, std::size_t factor) {
      const auto number = node.operand(factor).number();
      if (!number) Emitter::refuse(node, "a factor that is computed");
      return out.call("Mul", {name, out.scalar(*number, out.type(node.output()).dtype)});
    };
    const auto product = out.call("MatMul", {out.input(node, 1), out.input(node, 2)});
    out.result(node, "Add", {scaled(out.input(node, 0), 3), scaled(product, 4)});
    return;
  }
  gemm(out, node, node.input(1), node.input(2), node.input(0), false);
}

void linear(Emitter& out, const Node& node) {
  if (out.type(node.input(0)).rank() == 2) {
    gemm(out, node, node.input(0), node.input(1), node.input(2), true);
    return;
  }
  std::string weight;
  const auto* held = out.constant(node.input(1));
  if (held && held->integers && held->integers->block == 0 && held->tensor.dim() == 2) {
    auto form = *held->integers;
    form.integers = form.integers.t().contiguous();
    form.axis = 1 - form.axis;
    weight = out.dequantize(form, node.name + ".weight");
  } else if (held && !held->integers) {
    weight = out.tensor(held->tensor.t().contiguous(), node.name + ".weight");
  } else {
    weight = out.call("Transpose", {out.input(node, 1)}, {{"perm", Ints{1, 0}}});
  }
  const auto product = out.call("MatMul", {out.input(node, 0), weight});
  if (node.input(2) == kNoValue)
    out.alias(node, product);
  else
    out.result(node, "Add", {product, out.input(node, 2)});
}

void product(Emitter& out, const Node& node) {
  refuse_wider(node);
  out.result(node, "MatMul", {out.input(node, 0), out.input(node, 1)});
}

void batched_sum(Emitter& out, const Node& node) {
  refuse_wider(node);
  if (node.operand("beta").number() != 1.0 || node.operand("alpha").number() != 1.0)
    Emitter::refuse(node, "factors other than 1");
  const auto products = out.call("MatMul", {out.input(node, 1), out.input(node, 2)});
  out.result(node, "Add", {out.input(node, 0), products});
}

// x1_i W_oij x2_j + b_o
void bilinear(Emitter& out, const Node& node) {
  const auto product = out.call("Einsum", {out.input(node, 0), out.input(node, 2), out.input(node, 1)},
                                {{"equation", std::string("...i,oij,...j->...o")}});
  const auto bias = out.input(node, 3);
  if (bias.empty())
    out.alias(node, product);
  else
    out.result(node, "Add", {product, bias});
}

constexpr RuleEntry kLayerRules[] = {
    {"aten::conv1d", convolution},
    {"aten::conv2d", convolution},
    {"aten::conv3d", convolution},
    {"aten::convolution", general_convolution},
    {"aten::_convolution", general_convolution},
    {"aten::conv_transpose1d", transposed_convolution},
    {"aten::conv_transpose2d", transposed_convolution},
    {"aten::conv_transpose3d", transposed_convolution},
    {"aten::addmm", addmm},
    {"aten::linear", linear},
    {"aten::matmul", product},
    {"aten::mm", product},
    {"aten::bmm", product},
    {"aten::mv", product},
    {"aten::baddbmm", batched_sum},
    {"aten::bilinear", bilinear},
};

}  // namespace

std::span<const RuleEntry> layer_rules() { return kLayerRules; }

std::string bias_of(Emitter& out, ValueId bias, ValueId source, ValueId weight, std::int64_t channels) {
  const auto* held = out.constant(bias);
  const auto* weights = out.constant(weight);
  const auto* qparams = out.qparams(source);
  if (!held || !qparams || !weights || !weights->integers || weights->integers->block != 0 ||
      held->tensor.numel() != channels || held->tensor.dim() != 1)
    return out.value(bias);
  const auto& form = *weights->integers;
  if (form.scale.numel() != 1 && form.scale.numel() != channels) return out.value(bias);
  const auto scale = (form.scale.to(at::kDouble) * qparams->scale).expand({channels}).to(at::kFloat).contiguous();
  const auto integers = at::round(held->tensor.to(at::kDouble) / scale.to(at::kDouble));
  // A channel of tiny weights with a large bias: int32 would not hold it.
  if (!(integers.abs().max().item<double>() <= static_cast<double>(std::numeric_limits<std::int32_t>::max())))
    return out.value(bias);
  IntegerForm result;
  result.integers = integers.to(at::kInt);
  result.scale = scale;
  result.zero_point = at::zeros({channels}, at::kInt);
  return out.dequantize(result, out.graph().value(bias).name.empty() ? "bias" : out.graph().value(bias).name);
}

}  // namespace onnx

PARE_NAMESPACE_END
