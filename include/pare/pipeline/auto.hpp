#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pare/analysis/sensitivity.hpp"
#include "pare/core/batches.hpp"
#include "pare/core/log.hpp"
#include "pare/core/progress.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pipeline/auto_training.hpp"
#include "pare/pipeline/budget.hpp"
#include "pare/pipeline/drop_estimate.hpp"
#include "pare/pipeline/fold.hpp"
#include "pare/pipeline/head.hpp"
#include "pare/pipeline/pipeline_report.hpp"
#include "pare/pipeline/sample_scores.hpp"
#include "pare/plan/plan.hpp"

PARE_NAMESPACE_BEGIN

/// What `optimize` is run with.
struct AutoOptions {
  Batches calibration = {};      ///< inputs that stand for real ones
  SampleScores scores = {};      ///< judges every candidate; on data that is not in `calibration`
  std::vector<Head> heads = {};  ///< tasks judged each by itself, beside `scores` or instead of it
  /// Where there is no other data than what calibrates: every candidate is built once for each fold and judged on the
  /// samples that its fold leaves out, and `scores` are not asked. The result is calibrated on `calibration`.
  std::vector<Fold> folds = {};
  AutoTraining training = {};   ///< what the last rungs train with
  Batches refit = {};           ///< what the chosen candidate is calibrated on in the end; empty: `calibration`
  Budget budget = {};           ///< what may be lost and what must be won
  CompileOptions compile = {};  ///< how candidates are run
  /// What latency is measured on. Empty: the first sample of the calibration batches, or the first batch where the
  /// model does not run on samples (fixed sizes, a batch that is not dimension 0 alone).
  Batch example = {};
  double seconds = 0.5;     ///< spent on measuring the latency of each candidate
  std::size_t explore = 1;  ///< plans of 4 and 8 bits measured beyond what the budget needs, for the Pareto front
  std::uint64_t seed = 0;   ///< for whatever is drawn at random
  Log log = {};
  Progress progress = {};
  /// A folder: every candidate that is finished is kept there, trainings are kept as they go on, and a run with the
  /// same model, data and options goes on from it. A run killed at any moment and started again ends with the same
  /// model, bit for bit, as one left alone (where no budget of latency decides: times are never the same twice).
  std::string checkpoint = {};
  /// Asked between candidates, layers and training steps, from the calling thread; may look at a flag that another
  /// thread sets.
  std::function<bool()> cancelled = {};
};

/// A model that was built, compiled and measured on the way.
struct Candidate {
  std::string name;  ///< `float32`, `int8`, `int4/int8 at 6.00 bits`, `pruned by 20 %, distilled, int8`
  Measurement measured = {};
  DropEstimate drop = {};              ///< against the captured model
  std::vector<HeadReport> heads = {};  ///< the same for each head
  std::uint64_t stored = 0;            ///< bytes of the weights at their own widths, bf16 layers two each
  Plan plan = {};                      ///< bits of each weighted layer
  bool kept = false;                   ///< the one that was chosen
  std::string reason = {};             ///< why it was chosen or not
  bool on_front = false;  ///< no other candidate is at least as good, as small and as fast, and better in one
};

/// What `optimize` made of a model.
struct AutoResult {
  Model model;
  CompiledModel compiled;
  PipelineReport report;                        ///< its stages are the candidates
  std::vector<Candidate> candidates;            ///< all that were measured, float first
  Plan plan;                                    ///< of the chosen one
  std::optional<Sensitivity> sensitivity = {};  ///< where a plan was made
  double evaluations = 0;       ///< what sensitivity and planning took, in runs over the calibration data
  Model original = {};          ///< the captured model
  CompileOptions compile = {};  ///< how `compiled` was made of `model`: bf16 layers are exceptions there
};

/// Finds what the budget asks for by itself: climbs a ladder only as far as it has to, and proves each step by
/// compiling and measuring it.
///
///     auto found = pare::optimize(model, {.calibration = batches, .scores = pare::top1_scores(images, labels),
///                                         .budget = {.max_drop = 0.5_pct}});
///
/// 1. int8: batch norms folded, transformers smoothed, ranges and rounding from calibration (`Quantizer`).
/// 2. Where that loses too much: the layers whose rounding costs the answers most (`Sensitivity`) are computed in bf16
///    (float32 where the processor has no instructions for it), an eighth, a quarter, then half of them; with
///    `training` data, int8 is trained; then all are computed in bf16; float32 is left in the end.
/// 3. Where int8 is not small enough (`Budget::bytes`, `stored`): 4 and 8 bits by layer (`mixed_precision`);
///    with learned rounding where that loses too much.
/// 4. Where that is not small enough, or int8 not fast enough (`latency_ms`): channels are pruned, then int8.
/// 5. Where that loses too much and there is `training` data: of the networks that are small and fast enough, the one
///    pruned least is taught by the captured model, then int8; where int8 still loses too much, trained quantized.
///
/// A candidate keeps the budget when its drop, as seen, is at most `Budget::max_drop`, and that of every head at most
/// the head's; the report states the intervals. A budget that is not reached is no error: the best reached is returned,
/// and `PipelineReport::shortfall` names the limits that bind. The chosen recipe is calibrated anew on `refit` where
/// that is given; what was trained stays as it was judged.
///
/// @throws Error `pare.pipeline.101` options out of range, heads without a name or with the same one, or `max_drop`
///         without scores; `.102` without calibration; `.103` scores that are not numbers, with the candidate and head;
///         `.105` cancelled; `.107` the checkpoint of another model or run, or a damaged one; `.108` one that cannot be
///         written; `.109` training that met a loss that is not a number, `pare.distill.125` a loss that is no scalar
///         or does not depend on what is trained; as `Model::run` for an example that does not fit; and whatever a pass
///         throws
[[nodiscard]] AutoResult optimize(const Model& model, const AutoOptions& options);

PARE_NAMESPACE_END
