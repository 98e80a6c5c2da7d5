#include "pare/pipeline/auto.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <optional>

#include "core/seconds_since.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/core/error.hpp"
#include "pare/plan/mixed_precision.hpp"
#include "pare/quantize/compare.hpp"
#include "pipeline/measuring.hpp"
#include "pipeline/recipes.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using namespace literals;

/// A recipe carried out.
struct Built {
  LadderRecipe recipe;
  Candidate candidate;
  Model model;
  CompiledModel compiled;
  Report rows;
};

void add(std::string& text, const std::string& one) { text += (text.empty() ? "" : "; ") + one; }

/// One climb.
class Climb {
 public:
  Climb(const Model& model, const AutoOptions& options)
      : options_(options),
        example_(example_of(options.example, options.calibration)),
        original_(model),
        ladder_((original_.eval(), original_), options.compile) {}

  AutoResult run() {
    judge_original();
    auto* whole = &measure(ladder_.float32());
    auto* int8 = &measure(ladder_.int8());
    auto* best = int8;
    if (!keeps_drop(*int8)) best = rescue(*whole, *int8);
    if (best == int8) {
      if (too_large(*best)) best = shrink(*int8);
      if (too_large(*best) || too_slow(*best)) best = prune(*best);
    }
    explore();
    return finish(*best);
  }

 private:
  void judge_original() {
    if (options_.scores) before_ = scores(predictor(original_), "the captured model");
  }

  [[nodiscard]] at::Tensor scores(const Predictor& predict, const std::string& name) const {
    const at::NoGradGuard no_grad;
    auto found = options_.scores(predict);
    if (!found.defined() || found.numel() == 0 || !found.isfinite().all().item<bool>())
      fail("pare.pipeline.103", name, "the scores must be numbers, one for each sample");
    return found.to(at::kDouble).flatten();
  }

  [[nodiscard]] ContextOptions context(const Batches& calibration) const {
    ContextOptions context;
    context.calibration = calibration;
    context.seed = options_.seed;
    context.log = options_.log;
    context.progress = options_.progress;
    return context;
  }

  Built& measure(LadderRecipe recipe) {
    if (options_.cancelled && options_.cancelled())
      fail("pare.pipeline.105", recipe.name, "cancelled before this candidate");
    const auto start = Clock::now();
    auto applied = recipe.build(context(options_.calibration));
    auto compiled = compile(applied.model, recipe.compile);
    Candidate candidate;
    candidate.name = recipe.name;
    candidate.stored = WeightStorage(applied.model).bytes();
    candidate.plan = plan_of(applied.model);
    candidate.measured.weight_bytes = compiled.weight_bytes();
    if (options_.scores) {
      const auto after = scores(predictor(compiled), recipe.name);
      candidate.measured.metric = after.mean().item<double>();
      candidate.drop = estimate_drop(before_, after);
    }
    {
      const at::NoGradGuard no_grad;
      candidate.measured.latency = measure_latency({[&] { (void)compiled.run(example_); }}, options_.seconds)[0];
    }
    options_.log.info("{}: drop {}, {} bytes, {:.3f} ms, {:.1f} s", recipe.name, candidate.drop.text(),
                      candidate.measured.weight_bytes, candidate.measured.latency.median_ms, seconds_since(start));
    ReportStage stage;
    stage.pass = recipe.name;
    stage.kept = false;
    stage.seconds = seconds_since(start);
    stage.metric = candidate.measured.metric;
    stage.weight_bytes = candidate.measured.weight_bytes;
    stages_.push_back(std::move(stage));
    built_.push_back({std::move(recipe), std::move(candidate), std::move(applied.model), std::move(compiled),
                      std::move(applied.report)});
    return built_.back();
  }

  [[nodiscard]] bool keeps_drop(const Built& built) const {
    return !options_.budget.max_drop || built.candidate.drop.drop <= options_.budget.max_drop->fraction;
  }

  [[nodiscard]] bool too_large(const Built& built) const {
    const auto& budget = options_.budget;
    return (budget.stored && built.candidate.stored > budget.stored->count) ||
           (budget.bytes && built.candidate.measured.weight_bytes > budget.bytes->count);
  }

  [[nodiscard]] bool too_slow(const Built& built) const {
    return options_.budget.latency_ms && built.candidate.measured.latency.median_ms > *options_.budget.latency_ms;
  }

  // What a candidate misses, in words; empty within the budget.
  [[nodiscard]] std::string short_of(const Built& built) const {
    const auto& budget = options_.budget;
    const auto& measured = built.candidate.measured;
    std::string text;
    if (!keeps_drop(built))
      add(text, fmt::format("the metric falls by {}, {:.4f} allowed", built.candidate.drop.text(),
                            budget.max_drop->fraction));
    if (budget.stored && built.candidate.stored > budget.stored->count)
      add(text, fmt::format("{} bytes stored, {} allowed", built.candidate.stored, budget.stored->count));
    if (budget.bytes && measured.weight_bytes > budget.bytes->count)
      add(text, fmt::format("{} bytes of compiled weights, {} allowed", measured.weight_bytes, budget.bytes->count));
    if (budget.latency_ms && measured.latency.median_ms > *budget.latency_ms)
      add(text, fmt::format("{:.3f} ms a call, {:.3f} allowed", measured.latency.median_ms, *budget.latency_ms));
    return text;
  }

  // int8 loses too much: noisy layers stay float, as few as it takes.
  Built* rescue(Built& whole, Built& int8) {
    const auto sample = options_.calibration.first(1);
    std::vector<std::string> layers;
    for (const auto& layer : int8.candidate.plan.layers) layers.push_back(layer.name);
    std::map<std::string, double> sqnr;
    for (const auto& difference : compare(whole.model, int8.model, sample)) sqnr[difference.layer] = difference.sqnr_db;
    std::ranges::stable_sort(layers, {}, [&](const std::string& name) {
      const auto found = sqnr.find(name);
      return found == sqnr.end() ? 0.0 : found->second;
    });
    for (const double share : {0.25, 0.5}) {
      const auto count = static_cast<std::size_t>(std::ceil(share * static_cast<double>(layers.size())));
      std::vector<std::string> kept(layers.begin(), layers.begin() + static_cast<std::ptrdiff_t>(count));
      auto& built = measure(ladder_.int8_but(fmt::format("int8, {} layers float", count), std::move(kept)));
      if (keeps_drop(built)) return &built;
    }
    auto& half = measure(ladder_.bf16());
    return keeps_drop(half) ? &half : &whole;
  }

  // The precisions that plans choose from.
  MixedPrecisionResult plan(const PlanLimits& limits, std::size_t front) {
    const auto context = this->context(options_.calibration);
    const auto& int8 = *std::ranges::find(built_, std::string("int8"), [](const Built& b) { return b.recipe.name; });
    auto all4 = plan_of(int8.model);
    for (auto& layer : all4.layers)
      if (layer.weights == 8_bits) layer.weights = 4_bits;
    const auto int4 = ladder_.planned(all4).build(context);
    BatchOutputs answers;
    {
      const at::NoGradGuard no_grad;
      for (const auto& batch : options_.calibration) answers.push_back(original_.run(batch));
    }
    MixedPrecisionOptions search;
    search.batches = options_.calibration;
    search.loss = divergence_from(std::move(answers));
    search.limits = limits;
    search.front = front;
    search.seed = options_.seed;
    search.progress = options_.progress;
    search.cancelled = options_.cancelled;
    auto found = mixed_precision({{8_bits, int8.model}, {4_bits, int4.model}}, search);
    evaluations_ += found.evaluations;
    sensitivity_ = found.sensitivity;
    return found;
  }

  Built* shrink(Built& int8) {
    const auto& budget = options_.budget;
    auto limit = budget.stored ? budget.stored->count : budget.bytes->count;
    if (budget.bytes) {
      // Kernels hold sums and paddings beside what is stored.
      const auto beside =
          int8.candidate.measured.weight_bytes - std::min(int8.candidate.measured.weight_bytes, int8.candidate.stored);
      limit = std::min(limit, budget.bytes->count - std::min(beside, budget.bytes->count - 1));
    }
    const auto found = plan({.bytes = limit}, 0);
    planned_ = true;
    auto& built = measure(ladder_.planned(found.plan));
    built.candidate.plan = found.plan;
    return keeps_drop(built) ? &built : &int8;
  }

  Built* prune(Built& start) {
    auto* best = &start;
    for (const double macs : {0.1, 0.2, 0.35, 0.5}) {
      auto& built = measure(ladder_.pruned(macs));
      if (!keeps_drop(built)) break;
      best = &built;
      if (short_of(built).empty()) break;
    }
    return best;
  }

  // What less would cost: plans between int4 and int8, for whoever reads the report.
  void explore() {
    if (options_.explore == 0 || planned_) return;
    const auto found = plan({}, options_.explore);
    for (const auto& point : found.points)
      if (point.name.starts_with("front")) measure(ladder_.planned(point.plan)).candidate.plan = point.plan;
  }

  [[nodiscard]] static bool dominates(const Candidate& a, const Candidate& b) {
    const auto metric = [](const Candidate& c) { return c.measured.metric.value_or(0); };
    const bool as_good =
        metric(a) >= metric(b) && a.stored <= b.stored && a.measured.latency.median_ms <= b.measured.latency.median_ms;
    return as_good && (metric(a) > metric(b) || a.stored < b.stored ||
                       a.measured.latency.median_ms < b.measured.latency.median_ms);
  }

  void explain(const Built& best) {
    auto stage = stages_.begin();
    for (auto& built : built_) {
      auto& candidate = built.candidate;
      candidate.kept = &built == &best;
      candidate.reason = short_of(built);
      if (candidate.kept && candidate.reason.empty()) candidate.reason = "within the budget";
      if (!candidate.kept && candidate.reason.empty()) candidate.reason = "the budget does not need it";
      candidate.on_front =
          std::ranges::none_of(built_, [&](const Built& other) { return dominates(other.candidate, candidate); });
      stage->kept = candidate.kept;
      stage->reason = candidate.reason;
      ++stage;
    }
  }

  AutoResult finish(Built& best) {
    explain(best);
    PipelineReport report;
    report.shortfall = short_of(best);
    if (!options_.refit.empty()) {
      auto applied = best.recipe.build(context(options_.refit));
      best.compiled = compile(applied.model, best.recipe.compile);
      best.model = std::move(applied.model);
      best.rows = std::move(applied.report);
    }
    if (options_.scores) {
      report.before.metric = before_.mean().item<double>();
      report.after.metric = best.candidate.measured.metric;
      report.drop = best.candidate.drop;
    }
    report.before.weight_bytes = bytes_of(original_);
    report.after.weight_bytes = best.compiled.weight_bytes();
    {
      const at::NoGradGuard no_grad;
      const auto latency = measure_latency(
          {[&] { (void)original_.run(example_); }, [&] { (void)best.compiled.run(example_); }}, options_.seconds);
      report.before.latency = latency[0];
      report.after.latency = latency[1];
    }
    report.steps.append(best.rows);
    for (auto& stage : stages_) report.steps.add(std::move(stage));
    AutoResult result{
        std::move(best.model), std::move(best.compiled), std::move(report), {}, best.candidate.plan, sensitivity_,
        evaluations_};
    for (auto& built : built_) result.candidates.push_back(std::move(built.candidate));
    return result;
  }

  const AutoOptions& options_;
  Batch example_;
  Model original_;
  Ladder ladder_;
  at::Tensor before_;
  std::list<Built> built_;  // references stay
  std::vector<ReportStage> stages_;
  std::optional<Sensitivity> sensitivity_;
  double evaluations_ = 0;
  bool planned_ = false;
};

}  // namespace

AutoResult optimize(const Model& model, const AutoOptions& options) {
  validate_budget(options.budget, static_cast<bool>(options.scores), options.seconds);
  if (options.calibration.empty())
    fail("pare.pipeline.102", "", "nothing to calibrate on: give batches that stand for real inputs");
  return Climb(model, options).run();
}

PARE_NAMESPACE_END
