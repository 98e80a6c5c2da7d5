#include "learned_layer.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_map>

#include "weights.hpp"

PARE_NAMESPACE_BEGIN

namespace {

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
  if (!form || form->features > max_features || !graph.is_own_weight(after.weight) || after.inputs.size() != 1)
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
  if (quantizer.operand("axis").integer() != form->axis || !graph.is_own_weight(quantizer.input(1)))
    return std::nullopt;
  if (!model.weight(quantizer.input(2)).eq(0).all().item<bool>()) return std::nullopt;
  layer.grid = {quantizer.operand("quant_min").integer().value_or(0),
                quantizer.operand("quant_max").integer().value_or(0), true};
  layer.scale = graph.value(quantizer.input(1)).name;
  if (graph.is_own_weight(after.bias) && after.batch_norm == kNoNode &&
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

void LayerError::Sums::add(const at::Tensor& inputs, const at::Tensor& lacking) {
  if (inputs.size(1) == 0) return;
  add_to(covariance, at::bmm(inputs.transpose(1, 2), inputs));
  add_to(mean, inputs.sum(1));
  add_to(lack, at::bmm(lacking, inputs));
  add_to(mean_lack, lacking.sum(2));
  samples += static_cast<double>(inputs.size(1));
}

// With a bias the means are put right apart: only what varies is left to the weights.
LayerError::Moments LayerError::Sums::moments(bool centred) const {
  Moments result{covariance / samples, mean / samples, lack / samples, mean_lack / samples};
  if (!centred) return result;
  result.covariance -= at::bmm(result.mean.unsqueeze(2), result.mean.unsqueeze(1));
  result.lack -= at::bmm(result.mean_lack.unsqueeze(2), result.mean.unsqueeze(1));
  return result;
}

LayerError::LayerError(const LearnedLayer& layer, const at::Tensor& rows, const Frontier& original,
                       const Frontier& quantized, std::int64_t limit) {
  const auto& form = layer.form;
  const auto weight = rows.view({form.groups, form.outputs, form.features});
  const bool sums = layer.original.residual != kNoValue && layer.quantized.residual != kNoValue;
  for (std::size_t b = 0; b < quantized.size(); ++b) {
    const auto now = features_of(form, quantized.value(b, layer.quantized.inputs[0]), limit).to(at::kFloat);
    const auto was = features_of(form, original.value(b, layer.original.inputs[0]), limit).to(at::kFloat);
    auto lack = at::bmm(weight, (was - now).transpose(1, 2));  // [groups, outputs, samples]
    const auto residual_was = sums ? original.value(b, layer.original.residual) : at::Tensor();
    const auto residual_now = sums ? quantized.value(b, layer.quantized.residual) : at::Tensor();
    if (residual_was.defined() && residual_now.defined())
      lack = lack + outputs_of(form, residual_was - residual_now, limit)
                        .reshape({-1, form.groups, form.outputs})
                        .permute({1, 2, 0});
    if (quantized.size() > 1) {
      sides_[b % 2].add(now, lack);
    } else {
      const auto half = now.size(1) / 2;
      sides_[0].add(now.narrow(1, 0, half), lack.narrow(2, 0, half));
      sides_[1].add(now.narrow(1, half, now.size(1) - half), lack.narrow(2, half, now.size(1) - half));
    }
  }
  const bool centred = !layer.bias.empty();
  auto total = sides_[sides_[1].samples > 0 ? 1 : 0];
  if (sides_[0].samples > 0 && sides_[1].samples > 0) {
    for (int i = 0; i < 2; ++i) side_[i] = sides_[i].moments(centred);
    total = Sums{{sides_[0].covariance + sides_[1].covariance, sides_[0].mean + sides_[1].mean,
                  sides_[0].lack + sides_[1].lack, sides_[0].mean_lack + sides_[1].mean_lack},
                 sides_[0].samples + sides_[1].samples};
  }
  all_ = total.moments(centred);
}

namespace {

// lack * (covariance + ridge)^-1, the ridge in units of the mean diagonal.
at::Tensor regress(const at::Tensor& covariance, const at::Tensor& lack, double ridge) {
  auto damped = covariance.clone();
  auto diagonal = damped.diagonal(0, 1, 2);
  diagonal.add_(diagonal.mean(1, /*keepdim=*/true).mul(ridge).clamp_min(1e-12));
  const auto factor = std::get<0>(at::linalg_cholesky_ex(damped));
  return at::cholesky_solve(lack.transpose(1, 2), factor).transpose(1, 2);
}

}  // namespace

// The error that the weights solved on one side leave on the other, without what no weights change.
double LayerError::cross_error(double ridge) const {
  double error = 0;
  for (int i = 0; i < 2; ++i) {
    const auto& other = side_[1 - i];
    const auto change = regress(side_[i].covariance, side_[i].lack, ridge);
    error += (change * (at::bmm(change, other.covariance) - 2 * other.lack)).sum().item<double>();
  }
  return error;
}

at::Tensor LayerError::change() const {
  const auto sizes = all_.lack.sizes();
  double best = 0, least = 0;
  if (side_[0].lack.defined())
    for (const double ridge : {0.03, 0.1, 0.3, 1.0, 3.0})
      if (const double error = cross_error(ridge); error < least) {
        least = error;
        best = ridge;
      }
  if (best == 0) return at::zeros({sizes[0] * sizes[1], sizes[2]}, at::kFloat);
  return regress(all_.covariance, all_.lack, best).reshape({sizes[0] * sizes[1], sizes[2]}).to(at::kFloat);
}

at::Tensor LayerError::covariance() const {
  auto result = all_.covariance.clone();
  const auto diagonal = result.diagonal(0, 1, 2).clone();
  const auto off_diagonal = [](const at::Tensor& matrices) {
    return (matrices.square().sum({1, 2}) - matrices.diagonal(0, 1, 2).square().sum(1)).clamp_min(0.0);
  };
  auto strength = at::ones({result.size(0)}, at::kDouble);
  if (side_[0].covariance.defined())
    // The mean of two independent sides has a quarter of the variance of their difference.
    strength = off_diagonal(side_[0].covariance - side_[1].covariance)
                   .div(off_diagonal(result).mul(4.0).clamp_min(1e-30))
                   .clamp_max(1.0);
  result.mul_(1.0 - strength.view({-1, 1, 1}));
  result.diagonal(0, 1, 2).copy_(diagonal);
  return result;
}

at::Tensor LayerError::bias_shift(const at::Tensor& change) const {
  const auto lost = -change.to(at::kDouble).view(all_.lack.sizes());
  return (all_.mean_lack + at::bmm(lost, all_.mean.unsqueeze(2)).squeeze(2)).flatten();
}

PARE_NAMESPACE_END
