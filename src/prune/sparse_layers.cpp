#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "graph/layer_pattern.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/weight_axis.hpp"
#include "prune/loss_gradients.hpp"
#include "prune/own_loss.hpp"
#include "prune/solve_layer.hpp"
#include "prune/sparse_layer.hpp"

PARE_NAMESPACE_BEGIN

namespace {

void check_patterns(const Graph& graph, const std::vector<std::string>& patterns) {
  for (const auto& pattern : patterns)
    if (std::ranges::none_of(graph.nodes(), [&](NodeId id) { return names_layer(graph.node(id), pattern); }))
      fail("pare.prune.202", pattern, "this keep_dense pattern fits no layer; names are those of the report");
}

// Why a region's weight stays as it is, or an empty string.
std::string refusal(const Graph& graph, const FusedRegion& region, const std::optional<MatrixForm>& form,
                    const SparsitySettings& settings) {
  const auto& node = graph.node(region.anchor);
  if (std::ranges::any_of(settings.keep_dense, [&](const auto& pattern) { return names_layer(node, pattern); }))
    return "kept dense on request";
  if (region.weight == kNoValue) return "its weight is computed";
  if (graph.value(region.weight).type.dtype != c10::ScalarType::Float) return "its weight is not float32";
  if (!form) return fmt::format("{}: no rule for its inputs", name_of(region.family));
  std::int64_t taps = 1;
  for (const auto size : form->kernel) taps *= size;
  return misfit(settings.pattern, form->groups * form->outputs, form->features / taps);
}

std::optional<MatrixForm> form_of(const Graph& graph, const FusedRegion& region) {
  if (region.weight == kNoValue) return std::nullopt;
  if (region.family != OpFamily::TransposedConvolution) return matrix_form(graph, region);
  // Each pixel of the input makes a patch of its own: a linear layer from its channels to the patch.
  const auto& node = graph.node(region.anchor);
  std::vector<std::int64_t> sizes;
  for (const auto& size : graph.value(region.weight).type.sizes) sizes.push_back(size.constant().value_or(0));
  const std::vector<std::int64_t> kernel(sizes.begin() + 2, sizes.end());
  const auto is = [&](std::string_view argument, std::int64_t wanted) {
    const auto values = node.operand(argument).integers();
    return values && std::ranges::all_of(*values, [&](auto value) { return value == wanted; });
  };
  auto stride = node.operand("stride").integers();
  if (stride && stride->size() == 1) stride->resize(kernel.size(), stride->front());
  if (output_axis(graph, region) != 1 || groups_of(graph, region) != 1 || stride != kernel || !is("padding", 0) ||
      !is("output_padding", 0) || !is("dilation", 1))
    return std::nullopt;
  MatrixForm form;
  form.features = sizes[0];
  form.outputs = sizes[1];
  for (const auto size : kernel) form.outputs *= size;
  return form;
}

bool is_weighted(OpFamily family) {
  return family == OpFamily::Convolution || family == OpFamily::Linear || family == OpFamily::TransposedConvolution ||
         family == OpFamily::Embedding || family == OpFamily::Recurrent;
}

}  // namespace

at::Tensor SparseLayer::to_rows(const at::Tensor& weight) const {
  if (patch == 0) return pare::to_rows(form, weight);
  return weight.flatten(1).t().contiguous();  // [in, out * patch] -> [out * patch, in]
}

at::Tensor SparseLayer::from_rows(const at::Tensor& rows, at::IntArrayRef sizes) const {
  if (patch == 0) return pare::from_rows(form, rows, sizes);
  return rows.t().reshape(sizes).contiguous();
}

at::Tensor SparseLayer::features_of(const at::Tensor& input, std::int64_t limit) const {
  return pare::features_of(form, patch == 0 ? input : input.movedim(1, -1), limit);
}

std::vector<SparseLayer> find_sparse_layers(const Model& model, Context& context, const SparsitySettings& settings) {
  const auto& graph = model.graph();
  check_patterns(graph, settings.keep_dense);
  std::vector<SparseLayer> layers;
  std::set<ValueId> seen;
  for (const auto& region : match_regions(graph)) {
    if (!is_weighted(region.family)) continue;
    auto form = region.weight == kNoValue ? std::nullopt : form_of(graph, region);
    auto why = refusal(graph, region, form, settings);
    if (why.empty() && !seen.insert(region.weight).second) why = "its weight is another layer's, pruned there";
    if (!why.empty()) {
      context.report().declined(region.anchor, why);
      continue;
    }
    SparseLayer layer;
    layer.region = region;
    layer.form = std::move(*form);
    if (region.family == OpFamily::TransposedConvolution)
      layer.patch = layer.form.outputs / *graph.value(region.weight).type.sizes[1].constant();
    layer.path = graph.value(region.weight).name;
    layer.name = graph.node(region.anchor).name;
    const bool wanted = settings.update_weights || settings.importance.needs_inputs;
    layer.solved = wanted && layer.form.features <= settings.max_features;
    layers.push_back(std::move(layer));
  }
  if (layers.empty()) fail("pare.prune.204", "", "the model has no layer whose weights could be pruned one by one");
  return layers;
}

void gather_gradients(const Model& model, Context& context, const SparsitySettings& settings,
                      std::vector<SparseLayer>& layers) {
  const at::AutoGradMode grad(true);
  Model watched = model;
  watched.detach_weights();
  std::vector<at::Tensor> weights;
  for (auto& layer : layers) {
    auto weight = watched.weight(layer.path);
    weight.requires_grad_(true);
    weights.push_back(weight);
    layer.gradient = at::zeros({layer.rows(), layer.form.features});
  }
  std::size_t position = 0;
  for (const auto& batch : context.calibration()) {
    const auto outputs = watched.run(batch);
    const auto gradients = loss_gradients(
        "pare.prune.203", position,
        [&] { return settings.loss ? settings.loss(outputs, position) : own_loss(outputs); }, weights);
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < layers.size(); ++i)
      if (gradients[i].defined()) layers[i].gradient += layers[i].to_rows(gradients[i]);
    ++position;
  }
  for (auto& layer : layers) layer.gradient /= static_cast<double>(std::max<std::size_t>(position, 1));
}

std::int64_t CalibrationBatches::sample_limit(const MatrixForm& form) const {
  constexpr std::int64_t kAtLeast = 20000, kPerFeature = 20, kPerBatch = 64;
  const auto wanted = std::max(kAtLeast, kPerFeature * form.features);
  return std::max(kPerBatch, wanted / std::max<std::int64_t>(static_cast<std::int64_t>(batches.size()), 1));
}

at::Tensor saliency_of(const SparsitySettings& settings, const SparseLayer& layer, const PrunableWeight& view) {
  auto saliency = settings.importance.saliency(view);
  const bool fits = saliency.defined() && saliency.sizes() == view.weight.sizes();
  if (!fits || !saliency.isfinite().all().item<bool>())
    fail("pare.prune.203", layer.name, "the criterion {} returned {} here", settings.importance.name,
         !saliency.defined() ? "no tensor"
         : !fits             ? "another shape than the weight's"
                             : "NaN or infinities");
  return saliency;
}

void find_path(const Model& model, const SparsitySettings& settings, SparseLayer& layer,
               const std::vector<double>& kept_shares, const Damage& damage) {
  const auto dense = layer.to_rows(model.weight(layer.path).detach());
  PrunableWeight view{layer.name, layer.path, dense, dense.ne(0), layer.form.groups};
  view.gradient = layer.gradient;
  view.to_rows = [&layer](const at::Tensor& tensor) { return layer.to_rows(tensor); };
  const bool measured = layer.solved && !layer.moments.empty();
  const auto solve = [&] {
    const auto solved = solve_layer(layer.form, dense, view.mask, view.second_moment);
    if (settings.update_weights) view.weight = solved.weight;
    view.inverse_diagonal = solved.inverse_diagonal;
  };
  if (measured) {
    view.second_moment = layer.moments.second_moment(false);
    solve();
  }
  auto kept = view.mask.sum().item<std::int64_t>();
  for (std::size_t i = 0; i < kept_shares.size(); ++i) {
    const bool blind = settings.importance.needs_inputs && !measured;
    auto saliency = blind ? view.weight.abs() : saliency_of(settings, layer, view);
    // What is pruned stays so.
    saliency = at::where(view.mask, saliency.to(at::kFloat), at::full_like(dense, -1.0F));
    const auto keep = std::llround(kept_shares[i] * static_cast<double>(layer.numel()));
    view.mask = choose_mask(saliency, keep, settings.pattern, layer.taps()).logical_and_(view.mask);
    SparsityStep step{view.mask, view.mask.sum().item<std::int64_t>(), i > 0 ? layer.steps.back().damage : 0.0};
    if (step.kept < kept) {
      view.weight = view.weight * view.mask;
      if (measured && (damage || i + 1 < kept_shares.size())) solve();
      // A sparser layer is no better, whatever the noise says.
      if (damage) step.damage = std::max(step.damage, damage(layer, view.weight));
    }
    kept = step.kept;
    layer.steps.push_back(std::move(step));
  }
}

PARE_NAMESPACE_END
