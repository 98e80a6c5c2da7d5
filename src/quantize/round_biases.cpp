#include "biases.hpp"

#include <ATen/ATen.h>

#include <limits>
#include <map>
#include <optional>

#include "pare/graph/fusion.hpp"
#include "pare/quantize/round_biases.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// The scale of the integers that a value carries, behind ops that only move them.
std::optional<double> carried_scale(const Graph& graph, ValueId value) {
  for (;;) {
    const auto* node = graph.producer(value);
    if (!node) return std::nullopt;
    if (node->is("aten::fake_quantize_per_tensor_affine")) return node->operand(1).number();
    if (!passes_integers(graph, node->id)) return std::nullopt;
    ValueId first = node->operand(0).value();
    if (const auto* values = node->operand(0).get<Operand::Values>(); values && !values->empty())
      first = values->front();
    if (first == kNoValue) return std::nullopt;
    value = first;
  }
}

// A weight's scales, `[out]` or one; undefined where they are not of whole channels.
at::Tensor weight_scale(const Model& model, const FusedRegion& region, std::int64_t channels) {
  const auto& graph = model.graph();
  for (const auto id : region.weight_nodes) {
    const auto& node = graph.node(id);
    if (node.is("aten::fake_quantize_per_tensor_affine")) {
      const auto scale = node.operand(1).number();
      return scale ? at::full({1}, *scale, at::kDouble) : at::Tensor();
    }
    if (!node.is("aten::fake_quantize_per_channel_affine")) continue;
    const auto scale = node.input(1);
    if (graph.value(scale).kind != ValueKind::Weight || model.weight(scale).numel() != channels) return {};
    return model.weight(scale).detach().to(at::kDouble);
  }
  return {};
}

// The bias on the grid, or undefined where there is none.
at::Tensor rounded_bias(const Model& model, const FusedRegion& region) {
  const auto& graph = model.graph();
  if (region.weight == kNoValue || region.inputs.empty() || region.batch_norm != kNoNode || region.bias == kNoValue ||
      graph.value(region.bias).kind != ValueKind::Weight)
    return {};
  const auto bias = model.weight(region.bias).detach();
  if (bias.dim() != 1 || bias.scalar_type() != at::kFloat) return {};
  const auto input = carried_scale(graph, region.inputs[0]);
  const auto weight = weight_scale(model, region, bias.numel());
  if (!input || !weight.defined()) return {};
  // The unit as float32, as files hold it.
  const auto unit = (weight.to(bias.device()) * *input).to(at::kFloat).to(at::kDouble);
  const auto numbers = bias.to(at::kDouble);
  const auto integers = at::round(numbers / unit);
  const auto fits = integers.abs().le(static_cast<double>(std::numeric_limits<std::int32_t>::max()));
  return at::where(fits, integers * unit, numbers).to(at::kFloat);
}

}  // namespace

std::vector<NodeId> round_biases(Model& model, Rewriter& rewriter) {
  const at::NoGradGuard no_grad;
  std::vector<NodeId> layers;
  // A layer that is called twice has one bias: it is rounded where all calls have the same unit.
  struct Shared {
    at::Tensor rounded;
    std::vector<NodeId> readers;
    bool agree = true;
  };
  std::map<std::size_t, Shared> biases;
  for (const auto& region : match_regions(model.graph())) {
    const auto rounded = rounded_bias(model, region);
    if (!rounded.defined()) continue;
    auto& shared = biases[index(region.bias)];
    shared.agree &= !shared.rounded.defined() || shared.rounded.equal(rounded);
    shared.rounded = rounded;
    shared.readers.push_back(region.anchor);
  }
  for (const auto& [bias, shared] : biases) {
    const ValueId value{static_cast<std::uint32_t>(bias)};
    if (!shared.agree || model.graph().uses(value).size() != shared.readers.size()) continue;
    rewriter.set_weight(model.graph().value(value).name, shared.rounded);
    layers.insert(layers.end(), shared.readers.begin(), shared.readers.end());
  }
  return layers;
}

Preserved RoundBiases::run(Model& model, Context& context) {
  const auto layers = round_biases(model, context.rewriter());
  for (const auto layer : layers) context.report().done(layer, "bias int32");
  return layers.empty() ? Preserved::all() : Preserved::graph();
}

PARE_NAMESPACE_END
