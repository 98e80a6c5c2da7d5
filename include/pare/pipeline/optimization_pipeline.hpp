#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "pare/core/batches.hpp"
#include "pare/core/log.hpp"
#include "pare/core/progress.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pass/pass.hpp"
#include "pare/pipeline/budget.hpp"
#include "pare/pipeline/head.hpp"
#include "pare/pipeline/metric.hpp"
#include "pare/pipeline/pipeline_report.hpp"

PARE_NAMESPACE_BEGIN

/// What a pipeline is run with.
struct PipelineOptions {
  Batches calibration = {};      ///< inputs that stand for real ones, for passes that measure
  Metric metric = {};            ///< judges every stage; without it no stage is ever refused for what it lost
  std::vector<Head> heads = {};  ///< tasks judged each by itself: a stage is kept only if all keep their budgets
  Budget budget = {};            ///< what may be lost and what must be won
  CompileOptions compile = {};   ///< how models are run when they are measured, and the result
  /// What latency is measured on. Empty: the first sample of the calibration batches, or the first batch where the
  /// model does not run on samples (fixed sizes, a batch that is not dimension 0 alone).
  Batch example = {};
  double seconds = 1.0;    ///< spent on measuring latency
  std::uint64_t seed = 0;  ///< for whatever a pass draws at random
  Log log = {};            ///< where messages go; silent by default
  Progress progress = {};  ///< where progress is shown; nowhere by default
  /// A folder: the state after each stage is written there, and a run of the same passes on the same model goes on from
  /// it, with the same result bit for bit. Passes are told apart by name only; their options are the caller's to keep.
  std::string checkpoint = {};
  std::function<bool()> cancelled = {};  ///< asked wherever a pass counts; may look at a flag that another thread sets
};

/// What a pipeline made of a model.
struct PipelineResult {
  Model model;             ///< with every stage that was kept
  CompiledModel compiled;  ///< the same, ready to run
  PipelineReport report;
};

/// Passes under a budget: each stage is run on a copy, compiled and measured, and kept only while the metric stays
/// within `Budget::max_drop` of the captured model's, and every head within its own; otherwise it is rolled back, its
/// rows in the report say so, and the next stage goes on from what was before.
///
///     auto pipeline = pare::OptimizationPipeline{pare::FoldBatchNorm{}, pare::Quantizer{}};
///     auto result = pipeline.run(model, {.calibration = batches, .metric = pare::top1(images, labels),
///                                        .budget = {.max_drop = 1_pct}});
///
/// The model passed in stays as it is. A budget of bytes or latency that is not reached is no error: the best reached
/// is returned and `PipelineReport::shortfall` names what is missing.
class OptimizationPipeline {
 public:
  /// Options of the passes are validated here.
  template <class... Passes>
  explicit OptimizationPipeline(Passes&&... passes) {
    (passes_.emplace_back(std::forward<Passes>(passes)), ...);
  }
  template <class P>
  OptimizationPipeline& add(P&& pass) {
    passes_.emplace_back(std::forward<P>(pass));
    return *this;
  }

  /// @throws Error `pare.pipeline.101` for a budget with `max_drop` and no metric or a limit that is not positive,
  ///         `.102` without an example and without calibration, `.103` when the metric is not a finite number (with the
  ///         stage), `.105` cancelled, `.107` the checkpoint of another model or pipeline, or a damaged one, `.108` one
  ///         that cannot be written, as `Model::run` for an example that does not fit, and whatever a pass throws
  [[nodiscard]] PipelineResult run(const Model& model, const PipelineOptions& options) const;

 private:
  std::vector<AnyPass> passes_;
};

PARE_NAMESPACE_END
