#include "learned_layer.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_map>

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::string_view kPerChannel = "aten::fake_quantize_per_channel_affine";

bool own_weight(const Graph& graph, ValueId value) {
  return value != kNoValue && graph.value(value).kind == ValueKind::Weight && graph.uses(value).size() == 1;
}

// A plain sum of the layer's result and an activation.
bool adds_residual(const Graph& graph, const FusedRegion& region) {
  if (region.residual == kNoValue) return false;
  const auto& node = graph.node(region.residual_add);
  return node.is("aten::add") && node.operand("alpha").number().value_or(1.0) == 1.0;
}

std::optional<LearnedLayer> learned_layer(const Model& original, const Model& model, FusedRegion before,
                                          const FusedRegion& after, std::int64_t max_features) {
  const auto& graph = model.graph();
  const auto form = matrix_form(original.graph(), before);
  if (!form || form->features > max_features || !own_weight(graph, after.weight) || after.inputs.size() != 1)
    return std::nullopt;
  if (!adds_residual(original.graph(), before)) before.residual = kNoValue;
  LearnedLayer layer{before, after, *form, {}, kNoNode, {}, graph.value(after.weight).name, {}, {}};
  for (const auto id : after.weight_nodes) {
    const auto& node = graph.node(id);
    if (graph.uses(node.output()).size() != 1) return std::nullopt;
    if (family_of(node.op) == OpFamily::FakeQuantize) {
      if (layer.quantizer != kNoNode || !node.is(kPerChannel)) return std::nullopt;
      layer.quantizer = id;
    }
    layer.behind.push_back(id);
  }
  // Directly behind the table: cut into groups, a row has several scales.
  if (layer.quantizer == kNoNode || layer.behind.front() != layer.quantizer) return std::nullopt;
  const auto& quantizer = graph.node(layer.quantizer);
  if (quantizer.operand("axis").integer() != form->axis || !own_weight(graph, quantizer.input(1))) return std::nullopt;
  if (!model.weight(quantizer.input(2)).eq(0).all().item<bool>()) return std::nullopt;
  layer.grid = {quantizer.operand("quant_min").integer().value_or(0),
                quantizer.operand("quant_max").integer().value_or(0), true};
  layer.scale = graph.value(quantizer.input(1)).name;
  if (own_weight(graph, after.bias) && after.batch_norm == kNoNode &&
      model.weight(after.bias).numel() == form->groups * form->outputs)
    layer.bias = graph.value(after.bias).name;
  return layer;
}

void add_to(at::Tensor& sum, const at::Tensor& part) {
  sum = sum.defined() ? sum.add_(part.to(at::kDouble)) : part.to(at::kDouble);
}

}  // namespace

std::vector<LearnedLayer> find_learned_layers(const Model& original, const Model& model, std::int64_t max_features) {
  std::unordered_map<std::size_t, FusedRegion> quantized;
  for (auto& region : match_regions(model.graph())) quantized.emplace(index(region.anchor), std::move(region));
  std::vector<LearnedLayer> layers;
  for (const auto& region : match_regions(original.graph())) {
    const auto found = quantized.find(index(region.anchor));
    if (found == quantized.end()) continue;
    if (auto layer = learned_layer(original, model, region, found->second, max_features))
      layers.push_back(std::move(*layer));
  }
  const auto& order = model.graph().nodes();
  std::unordered_map<std::size_t, std::size_t> position;
  for (std::size_t i = 0; i < order.size(); ++i) position[index(order[i])] = i;
  std::ranges::sort(layers, {}, [&](const LearnedLayer& layer) { return position[index(layer.quantized.anchor)]; });
  return layers;
}

LayerError observe_error(const LearnedLayer& layer, const at::Tensor& rows, const Frontier& original,
                         const Frontier& quantized, std::int64_t limit) {
  const auto& form = layer.form;
  const auto weight = rows.view({form.groups, form.outputs, form.features});
  const bool sums = layer.original.residual != kNoValue && layer.quantized.residual != kNoValue;
  LayerError error;
  double samples = 0;
  for (std::size_t b = 0; b < quantized.size(); ++b) {
    const auto now = features_of(form, quantized.value(b, layer.quantized.inputs[0]), limit).to(at::kFloat);
    const auto was = features_of(form, original.value(b, layer.original.inputs[0]), limit).to(at::kFloat);
    auto lack = at::bmm(weight, (was - now).transpose(1, 2));  // [groups, outputs, samples]
    const auto& residual_was = sums ? original.value(b, layer.original.residual) : at::Tensor();
    const auto& residual_now = sums ? quantized.value(b, layer.quantized.residual) : at::Tensor();
    if (residual_was.defined() && residual_now.defined())
      lack = lack + outputs_of(form, residual_was - residual_now, limit)
                        .reshape({-1, form.groups, form.outputs})
                        .permute({1, 2, 0});
    add_to(error.covariance, at::bmm(now.transpose(1, 2), now));
    add_to(error.mean, now.sum(1));
    add_to(error.lack, at::bmm(lack, now));
    add_to(error.mean_lack, lack.sum(2));
    samples += static_cast<double>(now.size(1));
  }
  for (auto* sum : {&error.covariance, &error.mean, &error.lack, &error.mean_lack}) sum->div_(samples);
  if (!layer.bias.empty()) {  // the bias puts the means right: only what varies is left to the weights
    error.covariance -= at::bmm(error.mean.unsqueeze(2), error.mean.unsqueeze(1));
    error.lack -= at::bmm(error.mean_lack.unsqueeze(2), error.mean.unsqueeze(1));
  }
  return error;
}

PARE_NAMESPACE_END
