#include "examples/zoo/automatic.hpp"

#include <torch/torch.h>

#include <algorithm>

#include "pare/core/error.hpp"
#include "pare/pipeline/auto.hpp"

namespace zoo {

namespace {

std::int64_t samples_of(const Batches& batches) {
  std::int64_t samples = 0;
  for (const auto& batch : batches) samples += batch.at(0).size(0);
  return samples;
}

// Samples so few that one of them is more than may be lost say nothing about labels: then the movements of the outputs
// tell what is to be expected.
bool by_labels(const RecipeOptions& options) {
  const auto resolved = options.max_drop.value_or(100) / 100 * static_cast<double>(samples_of(options.calibration));
  return options.calibration_labels.defined() && resolved >= 1;
}

// No other data: each part of the calibration batches judges what the others calibrate.
std::vector<pare::Fold> folds_of(const RecipeOptions& options, const pare::Model& model) {
  constexpr std::size_t kFolds = 4;
  const auto count = std::min(kFolds, options.calibration.size());
  if (count < 2)
    pare::fail("zoo.106", "", "{} calibration batches are too few to calibrate and to judge by",
               options.calibration.size());
  std::vector<pare::Fold> folds;
  for (std::size_t fold = 0; fold < count; ++fold) {
    Batches judging, rest;
    std::vector<torch::Tensor> labels;
    std::int64_t row = 0;
    for (std::size_t i = 0; i < options.calibration.size(); ++i) {
      const auto& batch = options.calibration[i];
      const auto rows = batch.at(0).size(0);
      const bool judges = i % count == fold;
      (judges ? judging : rest).push_back(batch);
      if (judges && by_labels(options)) labels.push_back(options.calibration_labels.narrow(0, row, rows));
      row += rows;
    }
    auto scores =
        labels.empty() ? pare::expected_scores(judging, model) : pare::top1_scores(judging, torch::cat(labels));
    folds.push_back({std::move(rest), std::move(scores)});
  }
  return folds;
}

// In another order each time, pictures flipped and moved.
pare::TrainingData moved_pictures(const data::Set& set, std::int64_t size) {
  if (set.inputs[0].dim() != 4) return shuffled(set, size);
  return pare::TrainingData([set, size](std::int64_t epoch) {
    torch::manual_seed(static_cast<std::uint64_t>(epoch));
    const auto order = torch::randperm(set.size());
    std::vector<pare::Batch> batches;
    for (std::int64_t at = 0; at + size <= set.size(); at += size) {
      const auto index = order.narrow(0, at, size);
      batches.push_back({augmented(set.inputs[0].index_select(0, index)), set.labels.index_select(0, index)});
    }
    return pare::Batches(std::move(batches));
  });
}

std::string judged_by(const RecipeOptions& options) {
  if (options.validation.empty())
    return by_labels(options) ? "top-1, cross-validated on the calibration samples"
                              : "loss expected from how outputs move, cross-validated";
  return options.validation_labels.defined() ? "top-1 on samples of their own" : "agreement with the float model";
}

}  // namespace

void automatic(Recipe& recipe, const RecipeOptions& options) {
  const torch::NoGradGuard no_grad;
  pare::AutoOptions how;
  how.calibration = options.calibration;
  if (options.validation.empty()) {
    how.folds = folds_of(options, recipe.model);
  } else {
    how.scores = options.validation_labels.defined() ? pare::top1_scores(options.validation, options.validation_labels)
                                                     : pare::agreement_scores(options.validation, recipe.model);
  }
  if (options.training.labels.defined() && options.finetune.epochs > 0) {
    how.training.data = moved_pictures(options.training, options.finetune.batch);
    how.training.quantized_epochs = options.finetune.epochs;
    how.training.quantized_rate = 5e-4;
    how.training.fit = {.epochs = options.finetune.epochs, .rate = 5e-4, .batch_statistics = false};
  }
  if (options.max_drop) how.budget.max_drop = pare::Ratio{*options.max_drop / 100};
  if (options.max_bytes) how.budget.bytes = pare::Bytes{static_cast<std::uint64_t>(*options.max_bytes)};
  if (options.max_stored) how.budget.stored = pare::Bytes{static_cast<std::uint64_t>(*options.max_stored)};
  how.budget.latency_ms = options.max_latency_ms;
  how.compile = recipe.compile;
  auto found = pare::optimize(recipe.model, how);

  recipe.model = std::move(found.model);
  recipe.compile = found.compile;
  recipe.report.append(found.report.steps);
  recipe.plan = found.plan.text();
  recipe.evaluations = found.evaluations;
  recipe.drop = found.report.drop;
  recipe.shortfall = found.report.shortfall;
  if (found.report.drop)
    recipe.notes.push_back(fmt::format("{}: drop {}", judged_by(options), found.report.drop->text()));
  if (!options.validation.empty() && options.validation_labels.defined())
    recipe.notes.emplace_back("samples that the network was trained on make drops look smaller than they are");
  if (!found.report.within_budget()) recipe.notes.push_back("short of the budget: " + found.report.shortfall);
  for (const auto& candidate : found.candidates) {
    Measured point{candidate.name,
                   {},
                   static_cast<std::int64_t>(candidate.measured.weight_bytes),
                   static_cast<std::int64_t>(candidate.stored),
                   candidate.measured.latency.median_ms,
                   candidate.on_front};
    if (candidate.measured.metric) point.metric = 100 * *candidate.measured.metric;
    recipe.pareto.push_back(std::move(point));
    recipe.notes.push_back(fmt::format("{}{}: drop {}, {}", candidate.kept ? "chosen: " : "", candidate.name,
                                       candidate.drop.text(), candidate.reason));
  }
}

}  // namespace zoo
