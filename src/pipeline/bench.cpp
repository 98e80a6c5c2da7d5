#include "pipeline/bench.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/fingerprint.hpp"
#include "core/seconds_since.hpp"
#include "pare/core/error.hpp"
#include "pipeline/measuring.hpp"
#include "pipeline/recovery.hpp"
#include "pipeline/state_json.hpp"

PARE_NAMESPACE_BEGIN

namespace {

void add_batches(Fingerprint& fingerprint, const Batches& batches) {
  for (const auto& batch : batches)
    for (const auto& input : batch) {
      if (!input.defined()) continue;
      const auto values = input.detach().cpu().contiguous();
      fingerprint.add(fmt::format("{}", fmt::join(values.sizes(), " ")));
      fingerprint.add(values.const_data_ptr(), values.nbytes());
    }
}

}  // namespace

void validate_auto(const AutoOptions& options) {
  validate_budget(options.budget, options.scores || !options.folds.empty(), options.seconds);
  validate_heads(options.heads);
  validate_training(options.training);
  for (const auto& fold : options.folds)
    if (!fold.scores || fold.calibration.empty())
      fail("pare.pipeline.101", "", "a fold needs batches to calibrate on and scores of the samples it leaves out");
  if (options.calibration.empty())
    fail("pare.pipeline.102", "", "nothing to calibrate on: give batches that stand for real inputs");
}

Bench::Bench(const Model& model, const AutoOptions& options)
    : options_(options), original_(model), progress_(cancellable(options.progress, options.cancelled)) {
  original_.eval();
  example_ = example_of(original_, options.example, options.calibration);
  if (!options.checkpoint.empty()) journal_ = Journal(options.checkpoint, fingerprint(), original_);
  check_cancelled("the captured model");
  if (judged()) before_ = original_scores();
  heads_ = HeadJudge(options.heads, predictor(original_));
}

std::string Bench::fingerprint() const {
  Fingerprint all;
  const auto& budget = options_.budget;
  const auto limit = [](const auto& value) { return value ? fmt::format("{}", value->count) : "none"; };
  all.add(fmt::format("optimize {} {} {} drop {} bytes {} stored {} latency {}", options_.seed, options_.explore,
                      static_cast<int>(options_.compile.dtype), budget.max_drop ? budget.max_drop->fraction : -1.0,
                      limit(budget.bytes), limit(budget.stored), budget.latency_ms.value_or(-1)));
  const auto& how = options_.compile;
  all.add(fmt::format("compile {} {} {} {}", how.threads, how.tune, how.plans, how.adapt_threads));
  for (const auto& [layer, dtype] : how.node_precision) all.add(fmt::format("{} {}", layer, static_cast<int>(dtype)));
  for (const auto& head : options_.heads)
    all.add(fmt::format("{} {}", head.name, head.max_drop ? head.max_drop->fraction : -1.0));
  if (const auto& training = options_.training; training.data) {
    const auto& fit = training.fit;
    all.add(fmt::format("training {} {} {} {} {} {} {}", fit.epochs, fit.steps, fit.rate, fit.weight_decay,
                        fit.batch_statistics, training.quantized_epochs, training.quantized_rate));
    all.add(fmt::format("fit {} {} {} {} {} {} {} {}", static_cast<int>(fit.optimizer), fit.momentum,
                        static_cast<int>(fit.decay), fit.warm_up.fraction, fit.clip, fit.accumulate, fit.mixed,
                        fit.keep_zeros));
  }
  all.add(fingerprint_of(original_));
  add_batches(all, options_.calibration);
  add_batches(all, std::vector<Batch>{options_.example});
  for (const auto& fold : options_.folds) add_batches(all, fold.calibration);
  return all.text();
}

void Bench::check_cancelled(std::string_view next) const {
  if (options_.cancelled && options_.cancelled())
    fail("pare.pipeline.105", std::string(next), "cancelled before this candidate");
}

ContextOptions Bench::context(const Batches& calibration) const {
  ContextOptions context;
  context.calibration = calibration;
  context.seed = options_.seed;
  context.log = options_.log;
  context.progress = progress_;
  return context;
}

at::Tensor Bench::original_scores() const {
  const std::string stage = "the captured model";
  if (options_.folds.empty()) return checked_scores(options_.scores, predictor(original_), stage);
  std::vector<at::Tensor> all;
  for (const auto& fold : options_.folds) all.push_back(checked_scores(fold.scores, predictor(original_), stage));
  return at::cat(all);
}

// What was trained is judged as it is: a training for each fold would cost more than it tells.
at::Tensor Bench::scores_of(const LadderRecipe& recipe, const CompiledModel& compiled) const {
  if (options_.folds.empty()) return checked_scores(options_.scores, predictor(compiled), recipe.name);
  std::vector<at::Tensor> all;
  for (const auto& fold : options_.folds) {
    if (!recipe.fresh) {
      all.push_back(checked_scores(fold.scores, predictor(compiled), recipe.name));
      continue;
    }
    const auto own = compile(recipe.build(context(fold.calibration)).model, recipe.compile);
    all.push_back(checked_scores(fold.scores, predictor(own), recipe.name));
  }
  return at::cat(all);
}

void Bench::judge(const LadderRecipe& recipe, const CompiledModel& compiled, Candidate& candidate) const {
  candidate.heads = heads_(predictor(compiled), recipe.name);
  if (judged()) {
    const auto after = scores_of(recipe, compiled);
    candidate.drop = estimate_drop(before_, after);
    candidate.measured.metric = after.mean().item<double>();
  } else if (!candidate.heads.empty()) {
    candidate.measured.metric = mean_of(candidate.heads, &HeadReport::after);
  }
}

void Bench::record(const Candidate& candidate, double seconds) {
  options_.log.info("{}: {}{} bytes, {:.3f} ms, {:.1f} s", candidate.name,
                    judged() ? fmt::format("drop {}, ", candidate.drop.text()) : "", candidate.measured.weight_bytes,
                    candidate.measured.latency.median_ms, seconds);
  ReportStage stage;
  stage.pass = candidate.name;
  stage.kept = false;
  stage.seconds = seconds;
  stage.metric = candidate.measured.metric;
  stage.weight_bytes = candidate.measured.weight_bytes;
  stages_.push_back(std::move(stage));
}

Built& Bench::measure(LadderRecipe recipe) {
  check_cancelled(recipe.name);
  if (auto entry = journal_.next(recipe.name)) {
    try {
      auto candidate = candidate_of(entry->facts.at("candidate"));
      record(candidate, double_of(entry->facts.at("seconds")));
      auto rows = report_of(entry->facts.at("rows"));
      built_.push_back({std::move(recipe), std::move(candidate), std::move(entry->model), std::move(rows), {}});
      return built_.back();
    } catch (const nlohmann::json::exception& error) {
      fail("pare.pipeline.107", options_.checkpoint, "the checkpoint of '{}' is damaged ({})", recipe.name,
           error.what());
    }
  }
  const auto start = Clock::now();
  auto applied = recipe.build(context(options_.calibration));
  auto compiled = compile(applied.model, recipe.compile);
  Candidate candidate;
  candidate.name = recipe.name;
  candidate.plan = plan_of(applied.model, recipe.compile);
  candidate.stored = stored_bytes(applied.model, candidate.plan);
  candidate.measured.weight_bytes = compiled.weight_bytes();
  judge(recipe, compiled, candidate);
  {
    const at::NoGradGuard no_grad;
    candidate.measured.latency = measure_latency({[&] { (void)compiled.run(example_); }}, options_.seconds)[0];
  }
  const auto seconds = seconds_since(start);
  record(candidate, seconds);
  journal_.add(recipe.name, applied.model,
               {{"candidate", json_of(candidate)}, {"seconds", seconds}, {"rows", json_of(applied.report)}});
  built_.push_back({std::move(recipe), std::move(candidate), std::move(applied.model), std::move(applied.report),
                    std::move(compiled)});
  return built_.back();
}

Applied Bench::once(const std::string& name, const std::function<Applied(const std::string& draft)>& make) {
  check_cancelled(name);
  if (auto entry = journal_.next(name)) return {std::move(entry->model), report_of(entry->facts.at("rows"))};
  const auto start = Clock::now();
  auto applied = make(journal_.draft());
  options_.log.info("{}: {:.1f} s", name, seconds_since(start));
  journal_.add(name, applied.model, {{"rows", json_of(applied.report)}});
  return applied;
}

Built* Bench::find(const std::string& name) {
  const auto found = std::ranges::find(built_, name, [](const Built& one) { return one.recipe.name; });
  return found == built_.end() ? nullptr : &*found;
}

bool Bench::keeps_drop(const Built& built) const {
  const auto& limit = options_.budget.max_drop;
  return (!limit || built.candidate.drop.drop <= limit->fraction) && heads_within_budget(built.candidate.heads);
}

std::vector<Bench::Taken> Bench::taken(const Built& built) const {
  const auto& budget = options_.budget;
  const auto& measured = built.candidate.measured;
  std::vector<Taken> all;
  const auto size = [&](std::uint64_t bytes, const std::optional<Bytes>& limit, std::string_view what) {
    if (limit)
      all.push_back({true, static_cast<double>(bytes) / static_cast<double>(limit->count),
                     fmt::format("{} bytes {}, {} allowed", bytes, what, limit->count)});
  };
  size(built.candidate.stored, budget.stored, "stored");
  size(measured.weight_bytes, budget.bytes, "of compiled weights");
  if (const auto ms = measured.latency.median_ms; budget.latency_ms)
    all.push_back(
        {false, ms / *budget.latency_ms, fmt::format("{:.3f} ms a call, {:.3f} allowed", ms, *budget.latency_ms)});
  return all;
}

bool Bench::too_large(const Built& built) const {
  return std::ranges::any_of(taken(built), [](const Taken& one) { return one.of_size && one.share > 1; });
}

bool Bench::too_slow(const Built& built) const {
  return std::ranges::any_of(taken(built), [](const Taken& one) { return !one.of_size && one.share > 1; });
}

double Bench::excess(const Built& built) const {
  double most = 0;
  for (const auto& one : taken(built)) most = std::max(most, one.share);
  return most;
}

std::string Bench::short_of(const Built& built) const {
  const auto& budget = options_.budget;
  const auto& candidate = built.candidate;
  std::string text;
  if (budget.max_drop && candidate.drop.drop > budget.max_drop->fraction)
    add_reason(text,
               fmt::format("the metric falls by {}, {:.4f} allowed", candidate.drop.text(), budget.max_drop->fraction));
  if (!heads_within_budget(candidate.heads)) add_reason(text, heads_shortfall(candidate.heads));
  for (const auto& one : taken(built))
    if (one.share > 1) add_reason(text, one.text);
  return text;
}

PipelineReport Bench::report(Built& chosen) {
  PipelineReport report;
  report.shortfall = short_of(chosen);
  report.heads = chosen.candidate.heads;
  report.after.metric = chosen.candidate.measured.metric;
  if (judged()) {
    report.before.metric = before_.mean().item<double>();
    report.drop = chosen.candidate.drop;
  } else if (!report.heads.empty()) {
    report.before.metric = mean_of(report.heads, &HeadReport::before);
  }
  report.before.weight_bytes = bytes_of(original_);
  report.after.weight_bytes = chosen.compiled->weight_bytes();
  const at::NoGradGuard no_grad;
  const auto latency = measure_latency(
      {[&] { (void)original_.run(example_); }, [&] { (void)chosen.compiled->run(example_); }}, options_.seconds);
  report.before.latency = latency[0];
  report.after.latency = latency[1];
  report.steps.append(chosen.rows);
  auto stage = stages_.begin();
  for (const auto& one : built_) {
    stage->kept = one.candidate.kept;
    stage->reason = one.candidate.reason;
    report.steps.add(*stage++);
  }
  return report;
}

PARE_NAMESPACE_END
