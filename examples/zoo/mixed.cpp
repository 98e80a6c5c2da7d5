#include "examples/zoo/mixed.hpp"

#include <torch/torch.h>

#include "pare/core/error.hpp"
#include "pare/pass/apply.hpp"
#include "pare/plan/mixed_precision.hpp"
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

}  // namespace zoo
