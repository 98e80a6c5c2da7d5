#include "examples/zoo/mixed.hpp"

#include <torch/torch.h>

#include "pare/analysis/weight_storage.hpp"
#include "pare/core/error.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/pass/apply.hpp"
#include "pare/plan/joint_plan.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/quantize/quantizer.hpp"

namespace zoo {

using namespace pare::literals;

void mixed(Recipe& recipe, const RecipeOptions& options) {
  const torch::NoGradGuard no_grad;
  const pare::ContextOptions context{.calibration = options.calibration};
  const auto int8 = pare::apply(pare::Quantizer{}, recipe.model, context);
  const auto int4 = pare::apply(pare::Quantizer{.weights = 4_bits}, recipe.model, context);
  pare::BatchOutputs answers;
  for (const auto& batch : options.calibration) answers.push_back(recipe.model.run(batch));
  pare::MixedPrecisionOptions search;
  search.batches = options.calibration;
  search.answers = answers;
  search.loss = pare::divergence_from(std::move(answers));
  search.limits.average_bits = options.average_bits;
  search.method = options.exact ? pare::SensitivityMethod::Exact : pare::SensitivityMethod::Fisher;
  search.refinements = options.exact ? 1 : 0;
  const auto found = pare::mixed_precision({{8_bits, int8.model}, {4_bits, int4.model}}, search);
  if (!found.shortfall.empty()) pare::fail("zoo.105", "", "no plan: {}", found.shortfall);
  auto applied =
      pare::apply(pare::Quantizer{.layer_weights = found.plan.layer_weights(),
                                  .rounding = options.learned ? pare::Rounding::Learned : pare::Rounding::Compensated},
                  recipe.model, context);
  recipe.model = std::move(applied.model);
  recipe.report.append(applied.report);
  recipe.plan = found.plan.text();
  recipe.evaluations = found.evaluations;
  recipe.notes.push_back(fmt::format("sensitivity took {:.1f} evaluations, the plan {:.1f} in all",
                                     found.sensitivity->evaluations(), found.evaluations));
  for (const auto& point : found.points)
    recipe.notes.push_back(fmt::format("{}: {:.3f} bits, {} bytes stored, loss {:.5f}, predicted {:.5f}", point.name,
                                       point.plan.average_bits(), point.bytes, point.loss, point.predicted));
}

void joint(Recipe& recipe, const RecipeOptions& options) {
  const torch::NoGradGuard no_grad;
  const pare::ContextOptions context{.calibration = options.calibration};
  const auto folded = pare::apply(pare::FoldBatchNorm{}, recipe.model, context).model;
  std::vector<pare::Precision> quantized;
  for (const int bits : {8, 4})
    quantized.push_back({{bits}, pare::apply(pare::Quantizer{.weights = {bits}}, folded, context).model});
  std::vector<pare::PrunedModel> pruned;
  for (const double ratio : {0.25, 0.5}) {
    const pare::Pruner<> pruner{.ratio = pare::Ratio{ratio}, .scope = pare::Scope::PerGroup};
    pruned.push_back({{ratio}, pare::apply(pruner, folded, context).model});
  }
  pare::JointPlanOptions search;
  search.batches = options.calibration;
  const auto whole = static_cast<double>(pare::WeightStorage(quantized.front().model).bytes());
  search.limits.bytes = static_cast<std::uint64_t>(whole * options.average_bits / 8);
  search.method = options.exact ? pare::SensitivityMethod::Exact : pare::SensitivityMethod::Fisher;
  const auto make = [&](const pare::Plan& plan, pare::Report* rows) {
    auto model = folded;
    if (const auto ratios = plan.group_ratios(); !ratios.empty()) {
      auto applied = pare::apply(pare::Pruner<>{.group_ratios = ratios}, model, context);
      model = std::move(applied.model);
      if (rows != nullptr) rows->append(applied.report);
    }
    auto applied =
        pare::apply(pare::Quantizer{.layer_weights = plan.layer_weights(),
                                    .rounding = rows != nullptr && options.learned ? pare::Rounding::Learned
                                                                                   : pare::Rounding::Compensated},
                    model, context);
    if (rows != nullptr) rows->append(applied.report);
    return std::move(applied.model);
  };
  search.realize = [&](const pare::Plan& plan) { return make(plan, nullptr); };
  const auto found = pare::joint_plan(folded, quantized, pruned, search);
  if (!found.shortfall.empty()) pare::fail("zoo.105", "", "no plan: {}", found.shortfall);
  recipe.model = make(found.plan, &recipe.report);
  recipe.plan = found.plan.text();
  for (const auto& point : found.points)
    recipe.notes.push_back(fmt::format("{}{}: {} bytes stored, {:.0f} MACs, loss {:.5f}, predicted {:.5f}",
                                       &point == &found.chosen() ? "chosen: " : "", point.name, point.bytes, point.macs,
                                       point.loss, point.predicted));
}

}  // namespace zoo
