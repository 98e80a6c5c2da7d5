// Normalizations.
#include <ATen/ATen.h>

#include <numeric>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

float epsilon(const Node& node) {
  return static_cast<float>(number_of(node, static_cast<std::size_t>(node.op.argument("eps")), 1e-5));
}

std::string or_filled(Emitter& out, const Node& node, std::size_t position, const Ints& sizes, double fill) {
  auto name = out.input(node, position);
  return name.empty() ? out.tensor(at::full(sizes, fill, out.type(node.input(0)).dtype)) : name;
}

std::int64_t channels_of(const Emitter& out, const Node& node) {
  const auto& type = out.type(node.input(0));
  const auto channels = type.rank() < 2 ? std::nullopt : type.sizes[1].constant();
  if (!channels) Emitter::refuse(node, "the number of channels is not fixed");
  return *channels;
}

// input, weight, bias, running mean and variance, training, momentum, eps, cudnn
void batch_norm(Emitter& out, const Node& node) {
  if (node.operand("training").boolean(false).value_or(true) || node.input(3) == kNoValue)
    Emitter::refuse(node, "it takes its statistics from the batch");
  const Ints sizes{channels_of(out, node)};
  out.result(node, "BatchNormalization",
             {out.input(node, 0), or_filled(out, node, 1, sizes, 1), or_filled(out, node, 2, sizes, 0),
              out.input(node, 3), out.input(node, 4)},
             {{"epsilon", epsilon(node)}});
}

void instance_norm(Emitter& out, const Node& node) {
  const auto* use = node.operand("use_input_stats").get<Flag>();
  const Ints sizes{channels_of(out, node)};
  if (use && *use != Flag::True) {  // the statistics of training: a batch norm
    if (*use == Flag::False && node.input(3) == kNoValue) Emitter::refuse(node, "it has no running statistics");
    out.result(node, "BatchNormalization",
               {out.input(node, 0), or_filled(out, node, 1, sizes, 1), or_filled(out, node, 2, sizes, 0),
                out.input(node, 3), out.input(node, 4)},
               {{"epsilon", epsilon(node)}});
    return;
  }
  out.result(node, "InstanceNormalization",
             {out.input(node, 0), or_filled(out, node, 1, sizes, 1), or_filled(out, node, 2, sizes, 0)},
             {{"epsilon", epsilon(node)}});
}

void layer_norm(Emitter& out, const Node& node) {
  const auto sizes = integers_of(node, 1);
  out.result(node, "LayerNormalization",
             {out.input(node, 0), or_filled(out, node, 2, sizes, 1), or_filled(out, node, 3, sizes, 0)},
             {{"axis", -static_cast<std::int64_t>(sizes.size())}, {"epsilon", epsilon(node)}});
}

// A group as the channel of an instance norm, then weight and bias a channel.
void group_norm(Emitter& out, const Node& node) {
  const auto& sizes = out.type(node.input(0)).sizes;
  const auto dtype = out.type(node.input(0)).dtype;
  const auto groups = integer_of(node, 1);
  const auto rows = out.call("Reshape", {out.input(node, 0), out.integers({0, groups, -1})});
  const auto normed = out.call("InstanceNormalization",
                               {rows, out.tensor(at::ones({groups}, dtype)), out.tensor(at::zeros({groups}, dtype))},
                               {{"epsilon", epsilon(node)}});
  auto name = reshape_to(out, normed, {sizes[0]}, sizes);
  Ints axes(sizes.size() - 2);
  std::iota(axes.begin(), axes.end(), 1);
  const auto per_channel = [&](std::size_t position, const char* op) {
    auto vector = out.input(node, position);
    if (vector.empty()) return;
    if (!axes.empty()) vector = out.call("Unsqueeze", {vector, out.integers(axes)});
    name = out.call(op, {name, vector});
  };
  per_channel(2, "Mul");
  per_channel(3, "Add");
  out.alias(node, name);
}

void rms_norm(Emitter& out, const Node& node) {
  const auto dtype = out.type(node.input(0)).dtype;
  const auto sizes = integers_of(node, 1);
  Ints axes(sizes.size());
  std::iota(axes.begin(), axes.end(), -static_cast<std::int64_t>(sizes.size()));
  const auto x = out.input(node, 0);
  const auto squares = reduce(out, "Mean", out.call("Mul", {x, x}), axes, true);
  constexpr double kFloatEpsilon = 1.1920928955078125e-07;
  const auto shifted = out.call("Add", {squares, out.scalar(number_of(node, 3, kFloatEpsilon), dtype)});
  const auto normed = out.call("Div", {x, out.call("Sqrt", {shifted})});
  const auto weight = out.input(node, 2);
  if (weight.empty())
    out.alias(node, normed);
  else
    out.result(node, "Mul", {normed, weight});
}

constexpr RuleEntry kNormRules[] = {
    {"aten::batch_norm", batch_norm}, {"aten::instance_norm", instance_norm}, {"aten::layer_norm", layer_norm},
    {"aten::group_norm", group_norm}, {"aten::rms_norm", rms_norm},
};

}  // namespace

std::span<const RuleEntry> norm_rules() { return kNormRules; }

}  // namespace onnx

PARE_NAMESPACE_END
