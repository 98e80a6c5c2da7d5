#include "pare/pipeline/optimization_pipeline.hpp"

#include <ATen/ATen.h>

#include <chrono>
#include <cmath>
#include <set>

#include "pare/core/error.hpp"
#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Clock = std::chrono::steady_clock;

void validate(const PipelineOptions& options) {
  const auto& budget = options.budget;
  if (budget.max_drop && !options.metric)
    fail("pare.pipeline.101", "", "the budget limits the drop of a metric, but no metric is given");
  if (budget.max_drop && !(budget.max_drop->fraction >= 0))
    fail("pare.pipeline.101", "", "a drop of at most {} is not possible", budget.max_drop->fraction);
  if (budget.bytes && budget.bytes->count == 0) fail("pare.pipeline.101", "", "a budget of 0 bytes");
  if (budget.latency_ms && !(*budget.latency_ms > 0))
    fail("pare.pipeline.101", "", "a latency of at most {} ms is not possible", *budget.latency_ms);
  if (!(options.seconds > 0)) fail("pare.pipeline.101", "", "{} seconds to measure latency in", options.seconds);
}

// One sample: what a single request looks like.
Batch example_of(const PipelineOptions& options) {
  if (!options.example.empty()) return options.example;
  if (options.calibration.empty())
    fail("pare.pipeline.102", "", "nothing to measure latency on: give an example or calibration batches");
  auto batch = *options.calibration.begin();
  for (auto& input : batch)
    if (input.defined() && input.dim() > 0) input = input.narrow(0, 0, 1).contiguous();
  return batch;
}

std::uint64_t bytes_of(const Model& model) {
  std::uint64_t bytes = 0;
  std::set<const void*> counted;
  for (const auto& [path, weight] : model.weights())
    if (weight.tensor.defined() && counted.insert(weight.tensor.data_ptr()).second) bytes += weight.tensor.nbytes();
  return bytes;
}

std::optional<double> judge(const Metric& metric, const Predictor& predict, const std::string& stage) {
  if (!metric) return std::nullopt;
  const at::NoGradGuard no_grad;
  const auto value = metric(predict);
  if (!std::isfinite(value)) fail("pare.pipeline.103", stage, "the metric is {}: it must be a number", value);
  return value;
}

Predictor predictor(const Model& model) {
  return [&model](const std::vector<at::Tensor>& inputs) { return model.run(inputs); };
}
Predictor predictor(const CompiledModel& model) {
  return [&model](const std::vector<at::Tensor>& inputs) { return model.run(inputs); };
}

std::string shortfall(const Budget& budget, const PipelineReport& report) {
  std::string text;
  const auto add = [&](const std::string& one) { text += (text.empty() ? "" : "; ") + one; };
  if (budget.bytes && report.after.weight_bytes > budget.bytes->count)
    add(fmt::format("{} bytes of weights, {} allowed", report.after.weight_bytes, budget.bytes->count));
  if (budget.latency_ms && report.after.latency.median_ms > *budget.latency_ms)
    add(fmt::format("{:.3f} ms a call, {:.3f} allowed", report.after.latency.median_ms, *budget.latency_ms));
  // Compiling alone may move the metric: bf16 does.
  if (budget.max_drop && *report.before.metric - *report.after.metric > budget.max_drop->fraction)
    add(fmt::format("the metric fell by {:.4f}, {:.4f} allowed", *report.before.metric - *report.after.metric,
                    budget.max_drop->fraction));
  return text;
}

/// One run of a pipeline.
class Run {
 public:
  Run(const Model& model, const PipelineOptions& options)
      : options_(options), example_(example_of(options)), original_(model), current_(model) {
    original_.eval();
    current_.eval();
  }

  void start() {
    report_.before.metric = judge(options_.metric, predictor(original_), "the captured model");
    report_.before.weight_bytes = bytes_of(original_);
  }

  // Runs a pass on a copy; keeps it if the compiled copy is good enough.
  void stage(const AnyPass& pass) {
    const auto begin = Clock::now();
    auto candidate = current_;
    ContextOptions context_options;
    context_options.calibration = options_.calibration;
    context_options.seed = options_.seed;
    context_options.log = options_.log;
    context_options.progress = options_.progress;
    Context context(candidate, std::move(context_options));
    context.run(pass, candidate);
    auto rows = std::move(context.full_report());

    auto compiled = compile(candidate, options_.compile);
    ReportStage stage;
    stage.pass = pass.name();
    stage.metric = judge(options_.metric, predictor(compiled), pass.name());
    stage.weight_bytes = compiled.weight_bytes();
    if (const auto limit = options_.budget.max_drop;
        limit && *report_.before.metric - *stage.metric > limit->fraction) {
      stage.kept = false;
      stage.reason =
          fmt::format("the metric fell from {:.4f} to {:.4f}, {:.4f} below at most {:.4f} allowed",
                      *report_.before.metric, *stage.metric, *report_.before.metric - *stage.metric, limit->fraction);
      rows.revoke(0, stage.reason);
    } else {
      current_ = std::move(candidate);
      compiled_ = std::move(compiled);
      report_.after.metric = stage.metric;
    }
    stage.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    options_.log.info("{}: {} in {:.1f} s{}{}", stage.pass, stage.kept ? "kept" : "rolled back", stage.seconds,
                      stage.reason.empty() ? "" : ", ", stage.reason);
    report_.steps.append(rows);
    report_.steps.add(std::move(stage));
  }

  PipelineResult finish() {
    if (!compiled_) {
      compiled_ = compile(current_, options_.compile);
      report_.after.metric = judge(options_.metric, predictor(*compiled_), "the compiled model");
    }
    report_.after.weight_bytes = compiled_->weight_bytes();
    const at::NoGradGuard no_grad;
    const auto latency = measure_latency(
        {[&] { (void)original_.run(example_); }, [&] { (void)compiled_->run(example_); }}, options_.seconds);
    report_.before.latency = latency[0];
    report_.after.latency = latency[1];
    report_.shortfall = shortfall(options_.budget, report_);
    return {std::move(current_), std::move(*compiled_), std::move(report_)};
  }

 private:
  const PipelineOptions& options_;
  Batch example_;
  Model original_, current_;
  std::optional<CompiledModel> compiled_;
  PipelineReport report_;
};

}  // namespace

PipelineResult OptimizationPipeline::run(const Model& model, const PipelineOptions& options) const {
  validate(options);
  Run run(model, options);
  run.start();
  for (const auto& pass : passes_) run.stage(pass);
  return run.finish();
}

PARE_NAMESPACE_END
