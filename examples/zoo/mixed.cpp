#include "examples/zoo/mixed.hpp"

#include <torch/torch.h>

#include <algorithm>

#include "pare/analysis/weight_storage.hpp"
#include "pare/core/error.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/pass/apply.hpp"
#include "pare/pipeline/sample_scores.hpp"
#include "pare/plan/joint_plan.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/quantize/quantizer.hpp"

namespace zoo {

using namespace pare::literals;

namespace {

// Whether no other point is smaller, or faster where that was measured, and loses no more.
bool on_front(const std::vector<pare::PlanPoint>& points, const pare::PlanPoint& point) {
  return std::ranges::none_of(points, [&](const pare::PlanPoint& other) {
    const bool no_worse =
        other.loss <= point.loss && other.bytes <= point.bytes && other.latency_ms <= point.latency_ms;
    return no_worse && (other.loss < point.loss || other.bytes < point.bytes || other.latency_ms < point.latency_ms);
  });
}

// Limits that nothing keeps are no error, as they are none of `optimize`: the nearest plan is taken.
void fall_short(Recipe& recipe, const std::string& shortfall) {
  recipe.shortfall = shortfall;
  if (!shortfall.empty()) recipe.notes.push_back("short of the limits: " + shortfall);
}

}  // namespace

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
  fall_short(recipe, found.shortfall);
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
  for (const auto& point : found.points) {
    recipe.notes.push_back(fmt::format("{}: {:.3f} bits, {} bytes stored, loss {:.5f}, predicted {:.5f}", point.name,
                                       point.plan.average_bits(), point.bytes, point.loss, point.predicted));
    recipe.pareto.push_back(
        {point.name, {}, {}, static_cast<std::int64_t>(point.bytes), point.latency_ms, on_front(found.points, point)});
  }
}

namespace {

// What a joint plan is made of, and how it is made for good.
class JointMaker {
 public:
  JointMaker(const pare::Model& model, const RecipeOptions& options)
      : options_(options),
        context_{.calibration = options.calibration},
        folded_(pare::apply(pare::FoldBatchNorm{}, model, context_).model) {}

  [[nodiscard]] const pare::Model& folded() const noexcept { return folded_; }

  [[nodiscard]] std::vector<pare::Precision> quantized() const {
    std::vector<pare::Precision> all;
    for (const int bits : {8, 4})
      all.push_back({{bits}, pare::apply(pare::Quantizer{.weights = {bits}}, folded_, context_).model});
    return all;
  }

  [[nodiscard]] std::vector<pare::PrunedModel> pruned() const {
    std::vector<pare::PrunedModel> all;
    for (const double ratio : {0.125, 0.25, 0.5}) {
      const pare::Pruner<> pruner{.ratio = pare::Ratio{ratio}, .scope = pare::Scope::PerGroup};
      all.push_back({{ratio}, pare::apply(pruner, folded_, context_).model});
    }
    return all;
  }

  [[nodiscard]] pare::Model make(const pare::Plan& plan, pare::Rounding rounding, pare::Report* rows) const {
    auto model = folded_;
    const auto run = [&](const pare::AnyPass& pass) {
      auto applied = pare::apply(pass, model, context_);
      model = std::move(applied.model);
      if (rows != nullptr) rows->append(applied.report);
    };
    if (const auto ratios = plan.group_ratios(); !ratios.empty()) run(pare::Pruner<>{.group_ratios = ratios});
    run(pare::Quantizer{.layer_weights = plan.layer_weights(), .rounding = rounding});
    return model;
  }

 private:
  const RecipeOptions& options_;
  pare::ContextOptions context_;
  pare::Model folded_;
};

// Compiled bytes, and top-1 on samples that calibrate nothing, percent; without where there are none.
Measured judged(const pare::Model& model, const Recipe& recipe, const RecipeOptions& options) {
  const auto compiled = pare::compile(model, recipe.compile);
  Measured point;
  point.weight_bytes = static_cast<std::int64_t>(compiled.weight_bytes());
  if (options.validation.empty() || !options.validation_labels.defined()) return point;
  const auto scores = pare::top1_scores(options.validation, options.validation_labels);
  point.metric =
      100 * scores([&](const auto& inputs) { return compiled.run(inputs); }).to(torch::kDouble).mean().item<double>();
  return point;
}

pare::PlanLimits joint_limits(const pare::Model& int8, const RecipeOptions& options) {
  pare::PlanLimits limits;
  limits.latency_ms = options.max_latency_ms;
  if (options.max_stored) limits.bytes = static_cast<std::uint64_t>(*options.max_stored);
  if (!limits.latency_ms && !limits.bytes)
    limits.bytes =
        static_cast<std::uint64_t>(static_cast<double>(pare::WeightStorage(int8).bytes()) * options.average_bits / 8);
  return limits;
}

// The best plan with all layers and groups alike that keeps the limits, or the nearest.
const pare::PlanPoint& best_uniform(const pare::JointPlanResult& found, const pare::PlanLimits& limits) {
  const pare::PlanPoint* best = &found.points.front();
  for (const auto& point : found.points) {
    if (!point.name.starts_with("uniform")) continue;
    const auto here = std::max(1.0, point.excess(limits)), there = std::max(1.0, best->excess(limits));
    if (here < there || (here == there && point.loss < best->loss)) best = &point;
  }
  return *best;
}

}  // namespace

void joint(Recipe& recipe, const RecipeOptions& options) {
  const torch::NoGradGuard no_grad;
  const JointMaker maker(recipe.model, options);
  const auto quantized = maker.quantized();
  std::vector<Measured> measured;  // the points, in their order
  pare::JointPlanOptions search;
  search.batches = options.calibration;
  search.limits = joint_limits(quantized.front().model, options);
  search.method = options.exact ? pare::SensitivityMethod::Exact : pare::SensitivityMethod::Fisher;
  search.compile = recipe.compile;
  for (const auto& input : options.calibration.front()) search.inputs.push_back(input.narrow(0, 0, 1).contiguous());
  search.realize = [&](const pare::Plan& plan) {
    auto model = maker.make(plan, pare::Rounding::Compensated, nullptr);
    measured.push_back(judged(model, recipe, options));
    return model;
  };
  const auto found = pare::joint_plan(maker.folded(), quantized, maker.pruned(), search);
  const auto& chosen = options.uniform ? best_uniform(found, search.limits) : found.chosen();
  fall_short(recipe, chosen.shortfall(search.limits));
  recipe.model =
      maker.make(chosen.plan, options.learned ? pare::Rounding::Learned : pare::Rounding::Compensated, &recipe.report);
  recipe.plan = chosen.plan.text();
  recipe.evaluations = found.evaluations;
  for (std::size_t i = 0; i < found.points.size(); ++i) {
    const auto& point = found.points[i];
    auto& row = measured.at(i);
    row.name = point.name;
    row.stored_bytes = static_cast<std::int64_t>(point.bytes);
    row.latency_ms = point.latency_ms;
    row.on_front = on_front(found.points, point);
    recipe.notes.push_back(fmt::format("{}{}: {} bytes stored, {:.0f} MACs, {:.4f} ms, loss {:.5f}, predicted {:.5f}{}",
                                       &point == &chosen ? "chosen: " : "", point.name, point.bytes, point.macs,
                                       point.latency_ms, point.loss, point.predicted,
                                       row.metric ? fmt::format(", {:.2f} % of other samples", *row.metric) : ""));
  }
  recipe.pareto = std::move(measured);
}

}  // namespace zoo
