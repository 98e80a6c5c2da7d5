#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "pare/execute/compile_options.hpp"
#include "pare/plan/mixed_precision.hpp"

PARE_NAMESPACE_BEGIN

/// A model from which one share of the units of every group was removed, with what pruning does to the layers behind.
struct PrunedModel {
  Ratio ratio = {0.25};
  Model model;
};

/// What a search for a joint plan is run with.
struct JointPlanOptions {
  Batches batches = {};
  OutputLoss loss = {};    ///< empty: `divergence_from` the float model's answers
  PlanLimits limits = {};  ///< `bytes`, `macs`, `latency_ms`, `damage`
  /// The model as a plan makes it, for good: pruned (`Pruner::group_ratios`), then quantized. What is evaluated.
  std::function<Model(const Plan& plan)> realize = {};
  SensitivityMethod method = SensitivityMethod::Fisher;  ///< of bits; pruning is always evaluated exactly
  Batch inputs = {};            ///< of a call that is timed; empty: latencies are neither measured nor limited
  CompileOptions compile = {};  ///< of what is timed
  double seconds = 0.4;         ///< about how long each plan is run to time it
  std::uint64_t seed = 0;
  Progress progress = {};
  std::function<bool()> cancelled = {};
};

/// What a search found.
struct JointPlanResult {
  Plan plan;                      ///< the best that keeps the limits; where none does, the nearest
  std::string shortfall;          ///< the limits that cannot be kept; empty otherwise
  std::vector<PlanPoint> points;  ///< all that was realized and evaluated: uniform baselines first
  double evaluations = 0;         ///< what the search took, `realize` included, in runs over the batches (wall time)
  std::size_t chosen_point = 0;
  [[nodiscard]] const PlanPoint& chosen() const { return points.at(chosen_point); }
};

/// Chooses each layer's bits and each channel group's ratio together.
///
/// Candidates of layers are models quantized as a whole, candidates of groups models pruned as a whole. Damages are
/// measured one layer or group at a time: bits as `mixed_precision` does; a group by running the float model from its
/// first reader on, with the readers' weights as the pruned model has them, refitted, and zeros where units are gone.
/// Those readers were refitted where every group had lost units, so each ratio's damages, and each number of bits', are
/// scaled to what the uniform plan of that ratio, or of those bits, really lost.
/// Bytes and multiply-accumulates of a plan are exact; they are products over layers and groups, so the knapsack is
/// solved for what each choice changes at the plan at hand, until it stays. The plan is then realized and evaluated
/// beside all uniform ones: all layers of one precision, unpruned and at each ratio. Latencies are those of the
/// realized models, compiled and run; what a layer takes at widths between those of the uniform plans is interpolated,
/// and where a plan turns out slower than the limit, the next one gets less.
///
/// @param model     float, batch norms folded
/// @param quantized models of 2 to 8 bits from it
/// @param pruned    models pruned from it
/// @throws Error `pare.plan.105` without a quantized or pruned model, with two of the same bits or ratio or with others
///         than are possible, or with a limit on `average_bits`, `.106` without `realize`, or with a limit on the
///         latency and no `inputs`, `.107` a pruned model that does not come from `model` (with the weight), `.103`
///         limits that are no numbers, `pare.analysis.106` without batches, `.107` a loss that is not a number, `.108`
///         cancelled
[[nodiscard]] JointPlanResult joint_plan(const Model& model, std::vector<Precision> quantized,
                                         std::vector<PrunedModel> pruned, const JointPlanOptions& options);

PARE_NAMESPACE_END
