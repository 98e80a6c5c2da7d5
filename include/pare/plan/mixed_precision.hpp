#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pare/analysis/sensitivity.hpp"
#include "pare/plan/plan_latency.hpp"
#include "pare/plan/plan_point.hpp"
#include "pare/plan/planner.hpp"

PARE_NAMESPACE_BEGIN

/// A model whose weights all have so many bits: 2 to 8 quantized, 32 float, 16 float to be computed in bf16. What is
/// float has its batch norms folded and is equalized like the others, so that layers of one model fit into another.
struct Precision {
  Bits weights = {8};
  Model model;
};

/// What a search for mixed precision is run with.
struct MixedPrecisionOptions {
  Batches batches = {};
  OutputLoss loss = {};  ///< empty: `divergence_from` the answers of the model of most bits
  /// What that loss is measured from, for the Fisher method (`SensitivityOptions::answers`); empty where `loss` is: the
  /// same answers.
  BatchOutputs answers = {};
  PlanLimits limits = {};                                ///< without `macs`
  SensitivityMethod method = SensitivityMethod::Fisher;  ///< of the first sweep
  int refinements = 0;    ///< exact sweeps around the plan at hand, each half of layers times evaluations; at least 0
  std::size_t front = 3;  ///< sizes between the uniform ones that are planned and verified for the Pareto front
  /// Finds what plans take; without it a limit on the latency is refused.
  std::optional<PlanLatencyOptions> latency = {};
  std::uint64_t seed = 0;
  Progress progress = {};
  std::function<bool()> cancelled = {};
};

/// What a search found.
struct MixedPrecisionResult {
  Plan plan;                      ///< the best that keeps the limits; where none does, the nearest
  std::string shortfall;          ///< the limits that cannot be kept; empty otherwise
  std::vector<PlanPoint> points;  ///< all that was evaluated: uniform baselines first
  std::optional<Sensitivity> sensitivity;
  double evaluations = 0;  ///< what the search took, in runs of the model over the batches (wall time)
  [[nodiscard]] const PlanPoint& chosen() const { return points.at(chosen_point); }
  std::size_t chosen_point = 0;
};

/// Chooses each layer's bits among models that were quantized as a whole, each to its own number of bits.
///
///     auto found = mixed_precision({{8_bits, int8}, {4_bits, int4}}, {.batches = calibration, .limits = {.average_bits
///     = 6}}); auto model = pare::apply(pare::Quantizer{.layer_weights = found.plan.layer_weights()}, ...);
///
/// A layer taken from a float model reads its inputs unquantized (`with_float_switches`): what is gained by leaving it
/// out of the quantization. The damage of each layer alone (`Sensitivity`) goes into an exact knapsack (`Planner`).
/// What it chooses is evaluated with all layers together, and the damages are measured anew around it, where layers no
/// longer act alone; the next plan takes its place only if it is better. Uniform precisions that keep the limits are in
/// the race.
///
/// @throws Error `pare.plan.105` with fewer than two models, none of integers, two of the same bits or other bits, or a
/// limit on multiply-accumulates, `.103` for limits that are no numbers, `.106` for a limit on the latency that nothing
/// was given to find with, `pare.analysis.107` for a loss that is not a number (with the plan), and as `Sensitivity`
/// and `PlanLatency`
[[nodiscard]] MixedPrecisionResult mixed_precision(std::vector<Precision> models, const MixedPrecisionOptions& options);

PARE_NAMESPACE_END
