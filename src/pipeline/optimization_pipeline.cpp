#include "pare/pipeline/optimization_pipeline.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "core/seconds_since.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/core/error.hpp"
#include "pare/pass/context.hpp"
#include "pipeline/head_judge.hpp"
#include "pipeline/measuring.hpp"
#include "pipeline/pipeline_checkpoint.hpp"

PARE_NAMESPACE_BEGIN

namespace {

std::optional<double> judge(const Metric& metric, const Predictor& predict, const std::string& stage) {
  if (!metric) return std::nullopt;
  const at::NoGradGuard no_grad;
  const auto value = metric(predict);
  if (!std::isfinite(value)) fail("pare.pipeline.103", stage, "the metric is {}: it must be a number", value);
  return value;
}

std::string shortfall(const Budget& budget, const PipelineReport& report, std::uint64_t stored) {
  std::string text;
  const auto add = [&](const std::string& one) { add_reason(text, one); };
  if (budget.bytes && report.after.weight_bytes > budget.bytes->count)
    add(fmt::format("{} bytes of weights, {} allowed", report.after.weight_bytes, budget.bytes->count));
  if (budget.stored && stored > budget.stored->count)
    add(fmt::format("{} bytes stored, {} allowed", stored, budget.stored->count));
  if (budget.latency_ms && report.after.latency.median_ms > *budget.latency_ms)
    add(fmt::format("{:.3f} ms a call, {:.3f} allowed", report.after.latency.median_ms, *budget.latency_ms));
  // Compiling alone may move the metric: bf16 does.
  if (budget.max_drop && *report.before.metric - *report.after.metric > budget.max_drop->fraction)
    add(fmt::format("the metric fell by {:.4f}, {:.4f} allowed", *report.before.metric - *report.after.metric,
                    budget.max_drop->fraction));
  if (!heads_within_budget(report.heads)) add(heads_shortfall(report.heads));
  return text;
}

/// One run of a pipeline.
class Run {
 public:
  Run(const Model& model, const PipelineOptions& options) : options_(options), original_(model), current_(model) {
    original_.eval();
    current_.eval();
    example_ = example_of(original_, options.example, options.calibration);
  }

  void start(const PipelineCheckpoint* checkpoint) {
    checkpoint_ = checkpoint;
    auto saved = checkpoint ? checkpoint->load() : std::nullopt;
    report_.before.weight_bytes = bytes_of(original_);
    heads_ = HeadJudge(options_.heads, predictor(original_));
    if (saved) {
      done_ = saved->stages;
      current_ = std::move(saved->model);
      report_.before.metric = saved->before;
      report_.after.metric = saved->after;
      report_.steps = std::move(saved->report);
      options_.log.info("going on after {} stages from the checkpoint", done_);
      return;
    }
    report_.before.metric = judge(options_.metric, predictor(original_), "the captured model");
  }

  [[nodiscard]] std::size_t done() const noexcept { return done_; }

  // Runs a pass on a copy; keeps it if the compiled copy is good enough.
  void stage(const AnyPass& pass) {
    if (options_.cancelled && options_.cancelled())
      fail("pare.pipeline.105", pass.name(), "cancelled before this stage");
    const auto begin = Clock::now();
    auto candidate = current_;
    ContextOptions context_options;
    context_options.calibration = options_.calibration;
    context_options.seed = options_.seed;
    context_options.log = options_.log;
    context_options.progress = cancellable(options_.progress, options_.cancelled);
    Context context(candidate, std::move(context_options));
    context.run(pass, candidate);
    auto rows = std::move(context.full_report());

    auto compiled = compile(candidate, options_.compile);
    ReportStage stage;
    stage.pass = pass.name();
    stage.metric = judge(options_.metric, predictor(compiled), pass.name());
    stage.weight_bytes = compiled.weight_bytes();
    auto heads = heads_(predictor(compiled), pass.name());
    if (const auto limit = options_.budget.max_drop; limit && *report_.before.metric - *stage.metric > limit->fraction)
      stage.reason =
          fmt::format("the metric fell from {:.4f} to {:.4f}, {:.4f} below at most {:.4f} allowed",
                      *report_.before.metric, *stage.metric, *report_.before.metric - *stage.metric, limit->fraction);
    if (!heads_within_budget(heads)) add_reason(stage.reason, heads_shortfall(heads));
    stage.kept = stage.reason.empty();
    if (stage.kept) {
      current_ = std::move(candidate);
      compiled_ = std::move(compiled);
      report_.after.metric = stage.metric;
      report_.heads = std::move(heads);
    } else {
      rows.revoke(0, stage.reason);
    }
    stage.seconds = seconds_since(begin);
    options_.log.info("{}: {} in {:.1f} s{}{}", stage.pass, stage.kept ? "kept" : "rolled back", stage.seconds,
                      stage.reason.empty() ? "" : ", ", stage.reason);
    report_.steps.append(rows);
    report_.steps.add(std::move(stage));
    ++done_;
    if (checkpoint_) checkpoint_->save({done_, current_, report_.before.metric, report_.after.metric, report_.steps});
  }

  PipelineResult finish() {
    if (!compiled_) {
      compiled_ = compile(current_, options_.compile);
      report_.after.metric = judge(options_.metric, predictor(*compiled_), "the compiled model");
      report_.heads = heads_(predictor(*compiled_), "the compiled model");
    }
    report_.after.weight_bytes = compiled_->weight_bytes();
    const at::NoGradGuard no_grad;
    const auto latency = measure_latency(
        {[&] { (void)original_.run(example_); }, [&] { (void)compiled_->run(example_); }}, options_.seconds);
    report_.before.latency = latency[0];
    report_.after.latency = latency[1];
    report_.shortfall = shortfall(options_.budget, report_, WeightStorage(current_).bytes());
    return {std::move(current_), std::move(*compiled_), std::move(report_)};
  }

 private:
  const PipelineOptions& options_;
  Batch example_;
  Model original_, current_;
  std::optional<CompiledModel> compiled_;
  PipelineReport report_;
  HeadJudge heads_;
  const PipelineCheckpoint* checkpoint_ = nullptr;
  std::size_t done_ = 0;
};

}  // namespace

PipelineResult OptimizationPipeline::run(const Model& model, const PipelineOptions& options) const {
  validate_budget(options.budget, static_cast<bool>(options.metric), options.seconds);
  validate_heads(options.heads);
  std::optional<PipelineCheckpoint> checkpoint;
  if (!options.checkpoint.empty()) {
    std::vector<std::string> names;
    for (const auto& pass : passes_) names.push_back(pass.name());
    if (options.budget.max_drop) names.push_back(fmt::format("drop {}", options.budget.max_drop->fraction));
    for (const auto& head : options.heads)
      names.push_back(fmt::format("head {} {}", head.name, head.max_drop ? head.max_drop->fraction : -1.0));
    checkpoint.emplace(options.checkpoint, model, names, options.seed);
  }
  Run run(model, options);
  run.start(checkpoint ? &*checkpoint : nullptr);
  for (auto i = run.done(); i < passes_.size(); ++i) run.stage(passes_[i]);
  return run.finish();
}

PARE_NAMESPACE_END
