#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "core/samples_of.hpp"
#include "pare/analysis/output_loss.hpp"
#include "pare/core/error.hpp"
#include "pare/prune/sparsity_settings.hpp"
#include "prune/check_outputs.hpp"
#include "prune/solve_layer.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool wants_inputs(const SparsitySettings& settings) {
  return settings.update_weights || settings.importance.needs_inputs;
}

bool wants_calibration(const SparsitySettings& settings) {
  return wants_inputs(settings) || settings.importance.needs_gradients ||
         (settings.allocation == SparsityAllocation::Measured && !std::holds_alternative<NofM>(settings.pattern));
}

// The share of weights kept in all.
double kept_share(const SparsitySettings& settings) {
  if (const auto* n = std::get_if<NofM>(&settings.pattern)) return static_cast<double>(n->kept) / n->of;
  return 1.0 - settings.sparsity.fraction;
}

// The shares tried for a layer, descending, around the one wanted in all; the way there is taken in steps, since what
// is best to remove depends on what is left.
std::vector<double> shares_of(const SparsitySettings& settings) {
  const double wanted = kept_share(settings);
  if (std::holds_alternative<NofM>(settings.pattern)) return {wanted};
  if (settings.allocation != SparsityAllocation::Measured) {
    std::vector<double> shares;
    for (double share = 0.8; share > wanted * 1.1; share *= 0.75) shares.push_back(share);
    shares.push_back(wanted);
    return shares;
  }
  std::vector<double> shares{1.0};
  for (const double factor : {4.0, 3.0, 2.2, 1.7, 1.35, 1.15, 1.0, 0.85, 0.7, 0.55, 0.4, 0.25})
    if (factor * wanted < 0.95) shares.push_back(factor * wanted);
  return shares;
}

// The moments of every layer's input in the dense model.
void gather_moments(const Model& model, Context& context, const CalibrationBatches& calibration,
                    std::vector<SparseLayer>& layers) {
  std::vector<std::vector<SparseLayer*>> readers(model.graph().value_count());
  for (auto& layer : layers)
    if (layer.solved) readers[index(layer.region.inputs[0])].push_back(&layer);
  auto task = context.progress().start("calibrate", calibration.batches.size());
  for (const auto& batch : calibration.batches) {
    (void)model.run(batch, [&](ValueId value, const at::Tensor& tensor) {
      for (auto* layer : readers[index(value)])
        layer->moments.observe(layer->features_of(tensor, calibration.sample_limit(layer->form)));
    });
    task.advance();
  }
  for (const auto& layer : layers) {
    const bool runs = model.graph().node(layer.region.anchor).condition != Condition::Training;
    if (layer.solved && runs && (layer.moments.empty() || !layer.moments.mean().isfinite().all().item<bool>()))
      fail("pare.prune.203", layer.name,
           "on the calibration batches the layer reads NaN or infinite values, or they hold no samples");
  }
}

std::vector<Batch> first_samples(const std::vector<Batch>& batches, std::int64_t samples) {
  std::vector<Batch> first;
  std::int64_t taken = 0;
  for (const auto& batch : batches) {
    if (taken >= samples) break;
    first.push_back(batch);
    taken += samples_of(batch);
  }
  return first;
}

// The noise in the model's outputs with one layer's weight replaced. (A divergence of classes would say nothing where
// the model is sure of them: docs/design/sparsity.md.) Layers are asked about in the order of execution.
Damage damage_on(const Model& model, const std::vector<Batch>& batches) {
  const auto replay = std::make_shared<PrefixReplay>(model, batches);
  auto expected = replay->outputs();
  check_outputs("pare.prune.203", expected);
  return
      [&model, replay, noise = noise_against(std::move(expected))](const SparseLayer& layer, const at::Tensor& rows) {
        replay->advance(layer.region.anchor);
        const auto weight = layer.from_rows(rows, model.weight(layer.path).sizes());
        const double damage = noise(replay->outputs({{index(layer.region.weight), weight}}));
        return std::isfinite(damage) ? damage : std::numeric_limits<double>::max();
      };
}

// A threshold over the whole model on the criterion's own saliencies.
void choose_globally(const Model& model, const SparsitySettings& settings, std::vector<SparseLayer>& layers,
                     std::int64_t budget) {
  std::vector<at::Tensor> saliencies;
  for (auto& layer : layers) {
    const auto weight = layer.to_rows(model.weight(layer.path).detach());
    PrunableWeight view{layer.name, layer.path, weight, weight.ne(0), layer.form.groups};
    view.gradient = layer.gradient;
    view.to_rows = [&layer](const at::Tensor& tensor) { return layer.to_rows(tensor); };
    if (!layer.moments.empty()) {
      view.second_moment = layer.moments.second_moment(false);
      view.inverse_diagonal = solve_layer(layer.form, weight, view.mask, view.second_moment).inverse_diagonal;
    } else if (settings.importance.needs_inputs) {
      fail("pare.prune.201", layer.name, "{} inputs are more than max_features: a global threshold needs them all",
           layer.form.features);
    }
    const auto saliency = saliency_of(settings, layer, view);
    saliencies.push_back(at::where(view.mask, saliency.to(at::kFloat), at::full_like(weight, -1.0F)).flatten());
  }
  const auto all = at::cat(saliencies);
  const auto kept = std::get<1>(all.topk(std::clamp<std::int64_t>(budget, 1, all.numel()), 0, true, false));
  const auto mask = at::zeros_like(all, at::kBool).scatter_(0, kept, true);
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    auto& layer = layers[i];
    auto own = mask.narrow(0, offset, layer.numel()).view({layer.rows(), layer.form.features});
    own = own.logical_and(layer.to_rows(model.weight(layer.path).detach()).ne(0));
    layer.steps = {{own, own.sum().item<std::int64_t>(), 0.0}};
    offset += layer.numel();
  }
}

void report(Context& context, const SparsitySettings& settings, const SparseLayer& layer, double damage) {
  const double zeros = 1.0 - static_cast<double>(layer.steps[layer.chosen].kept) / static_cast<double>(layer.numel());
  const auto how = !settings.update_weights ? ""
                   : !layer.solved          ? "; more inputs than max_features, the others stay as they were"
                   : layer.exact            ? "; the others solved anew"
                                            : "; the others made up for them in one sweep";
  Reporter::Figures figures{{"sparsity", zeros}, {"nonzero", static_cast<double>(layer.steps[layer.chosen].kept)}};
  if (damage > 0) figures["damage"] = damage;
  context.report().done(
      layer.region.anchor,
      fmt::format("{:.1f} % of {} weights zero, {}{}", 100 * zeros, layer.numel(), name_of(settings.pattern), how),
      std::move(figures));
}

}  // namespace

void validate_sparsity(const SparsitySettings& settings) {
  if (!(settings.sparsity.fraction >= 0.0 && settings.sparsity.fraction < 1.0))
    fail("pare.prune.201", "", "a sparsity of {}: at least 0 and below 1 are possible", settings.sparsity.fraction);
  if (const auto* n = std::get_if<NofM>(&settings.pattern); n && (n->kept < 1 || n->kept >= n->of))
    fail("pare.prune.201", "", "{} of {} weights cannot be kept", n->kept, n->of);
  if (const auto* block = std::get_if<Blocks>(&settings.pattern); block && (block->rows < 1 || block->columns < 1))
    fail("pare.prune.201", "", "blocks of {}x{}", block->rows, block->columns);
  if (settings.allocation == SparsityAllocation::Global && !std::holds_alternative<Unstructured>(settings.pattern))
    fail("pare.prune.201", "", "a global threshold is for unstructured zeros; take Measured or Uniform for {}",
         name_of(settings.pattern));
  if (settings.max_features < 1 || settings.probe_samples < 1)
    fail("pare.prune.201", "", "max_features is {}, probe_samples is {}", settings.max_features,
         settings.probe_samples);
}

Preserved sparsify(Model& model, Context& context, const SparsitySettings& settings) {
  validate_sparsity(settings);
  const at::NoGradGuard no_grad;
  const bool training = model.is_training();
  model.eval();
  auto layers = find_sparse_layers(model, context, settings);
  CalibrationBatches calibration;
  if (wants_calibration(settings))
    for (const auto& batch : context.calibration()) calibration.batches.push_back(batch);
  if (wants_inputs(settings)) gather_moments(model, context, calibration, layers);
  if (settings.importance.needs_gradients) gather_gradients(model, context, settings, layers);

  std::int64_t total = 0;
  for (const auto& layer : layers) total += layer.numel();
  const auto budget = static_cast<std::int64_t>(std::floor(kept_share(settings) * static_cast<double>(total)));
  if (settings.allocation == SparsityAllocation::Global) {
    choose_globally(model, settings, layers, budget);
  } else {
    const auto shares = shares_of(settings);
    const bool measures = settings.allocation == SparsityAllocation::Measured && shares.size() > 1;
    Damage damage;
    if (measures) damage = damage_on(model, first_samples(calibration.batches, settings.probe_samples));
    auto task = context.progress().start("find masks", layers.size());
    for (auto& layer : layers) {
      find_path(model, settings, layer, shares, damage);
      layer.chosen = layer.steps.size() - 1;
      task.advance();
    }
    if (measures) allocate(layers, budget);
  }
  write_weights(model, context, settings, calibration, layers);
  model.train(training);
  for (const auto& layer : layers) report(context, settings, layer, layer.steps[layer.chosen].damage);
  context.report().declined("speed", "",
                            "the kernels of this process are dense: zeros make the model smaller to store, "
                            "not faster; whole channels do (Pruner)");
  return Preserved::graph();
}

PARE_NAMESPACE_END
