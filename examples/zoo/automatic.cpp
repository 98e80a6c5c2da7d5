#include "examples/zoo/automatic.hpp"

#include <torch/torch.h>

#include "pare/core/error.hpp"
#include "pare/pipeline/auto.hpp"

namespace zoo {

void automatic(Recipe& recipe, const RecipeOptions& options) {
  const torch::NoGradGuard no_grad;
  pare::AutoOptions how;
  how.calibration = options.calibration;
  Batches refit = options.calibration;
  Batches judged = options.validation;
  if (judged.empty()) {
    // No other data: every fourth batch judges what the others calibrate, and the choice is calibrated on all.
    Batches rest;
    for (std::size_t i = 0; i < options.calibration.size(); ++i)
      (i % 4 == 3 ? judged : rest).push_back(options.calibration[i]);
    if (judged.empty() || rest.empty())
      pare::fail("zoo.106", "", "{} calibration batches are too few to calibrate and to judge by",
                 options.calibration.size());
    how.calibration = rest;
    how.refit = refit;
  }
  how.scores = options.validation.empty() || !options.validation_labels.defined()
                   ? pare::agreement_scores(judged, recipe.model)
                   : pare::top1_scores(judged, options.validation_labels);
  if (options.max_drop) how.budget.max_drop = pare::Ratio{*options.max_drop / 100};
  if (options.max_bytes) how.budget.bytes = pare::Bytes{static_cast<std::uint64_t>(*options.max_bytes)};
  if (options.max_stored) how.budget.stored = pare::Bytes{static_cast<std::uint64_t>(*options.max_stored)};
  how.budget.latency_ms = options.max_latency_ms;
  how.compile = recipe.compile;
  auto found = pare::optimize(recipe.model, how);

  recipe.model = std::move(found.model);
  recipe.report.append(found.report.steps);
  recipe.plan = found.plan.text();
  recipe.evaluations = found.evaluations;
  if (found.report.drop)
    recipe.notes.push_back(fmt::format(
        "{}: drop {}", options.validation.empty() ? "agreement with the float model" : "top-1 on samples of their own",
        found.report.drop->text()));
  if (!found.report.within_budget()) recipe.notes.push_back("short of the budget: " + found.report.shortfall);
  for (const auto& candidate : found.candidates) {
    if (candidate.kept && candidate.name == "bf16") recipe.compile.dtype = torch::kBFloat16;
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
