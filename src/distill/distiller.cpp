#include "pare/distill/distiller.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "graph/layer_pattern.hpp"
#include "pare/distill/distillation.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// The inputs of a training batch, and its labels where it has any.
std::pair<Batch, at::Tensor> split(const Batch& batch, std::size_t inputs) {
  if (batch.size() <= inputs) return {batch, {}};
  return {Batch(batch.begin(), batch.begin() + static_cast<std::ptrdiff_t>(inputs)), batch[inputs]};
}

void make_trainable(Model& model, const std::vector<std::string>& freeze) {
  model.detach_weights();
  std::vector<bool> fits(freeze.size(), false);
  for (auto& [path, parameter] : model.named_parameters()) {
    bool frozen = false;
    for (std::size_t i = 0; i < freeze.size(); ++i)
      if (fits_pattern(path, freeze[i])) frozen = fits[i] = true;
    if (parameter.is_floating_point()) parameter.requires_grad_(!frozen);
  }
  for (std::size_t i = 0; i < freeze.size(); ++i)
    if (!fits[i]) fail("pare.distill.109", freeze[i], "no weight of the model has this name");
}

}  // namespace

void Distiller::validate() const {
  if (!teacher) fail("pare.distill.101", "", "a distillation without a teacher: give .teacher = model");
  fit.validate();
}

Preserved Distiller::run(Model& model, Context& context) {
  validate();
  const auto data = training ? training : TrainingData(context.calibration());
  const auto first = data.epoch(0);
  if (first.empty()) fail("pare.distill.122", "", "no batch to train on");
  const auto inputs = model.graph().inputs().size();
  make_trainable(model, freeze);
  Distillation distillation(model, teacher, split(*first.begin(), inputs).first, loss);
  if (!cache.path.empty()) {
    auto kept = cache;
    if (kept.samples.empty()) kept.samples = data.samples();
    distillation.cache_teacher(kept);
  }
  const StepLoss step = [&](const Batch& batch) {
    const auto [x, labels] = split(batch, inputs);
    return distillation.step(x, labels);
  };
  const auto result = pare::fit(model, data, step, fit, distillation.parameters());
  Reporter::Figures figures{
      {"steps", static_cast<double>(result.steps)}, {"first_loss", result.first_loss}, {"last_loss", result.last_loss}};
  if (result.best) figures["best"] = *result.best;
  for (const auto& [name, value] : distillation.terms()) figures[name] = value;
  context.report().done(
      "(model)", "training",
      fmt::format("distilled in {} steps, {} epochs: mean loss {:.4g} to {:.4g}{}", result.steps, result.epochs,
                  result.first_loss, result.last_loss, result.stopped_early ? ", stopped early" : ""),
      figures);
  return Preserved::graph();
}

PARE_NAMESPACE_END
