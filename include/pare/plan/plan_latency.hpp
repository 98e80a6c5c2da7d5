#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pare/analysis/layer_latency.hpp"
#include "pare/core/batches.hpp"
#include "pare/execute/compile_options.hpp"
#include "pare/plan/plan.hpp"

PARE_NAMESPACE_BEGIN

/// How the latency of plans is found.
struct PlanLatencyOptions {
  /// The model as a plan makes it; only its structure counts, so `sketch` will do.
  std::function<Model(const Plan& plan)> realize = {};
  Batch inputs = {};            ///< of a call
  CompileOptions compile = {};  ///< of what is compiled; threads 0: as many as LibTorch uses
  std::string cache = {};       ///< folder of the `LatencyTable`; empty: measured anew each time
  double seconds = 0.4;         ///< about how long each model is run that is measured
};

/// Predicts how long plans take.
///
/// Measured are the model with all layers in one precision, for each there is, and models in which two precisions
/// alternate layer by layer: from those come the steps at borders, which convert. They are run in turns. A plan's
/// latency is the sum of its steps, each known by what it does and between which neighbours (`LayerLatency`).
class PlanLatency {
 public:
  /// @param layers     all layers of the plans to come; their bits do not matter
  /// @param precisions to choose from; 2 to 8 bits run as 8
  /// @throws Error `pare.plan.106` without `realize` or inputs, `.102` without layers or precisions, and as
  /// `LayerLatency`
  PlanLatency(Plan layers, const std::vector<Bits>& precisions, PlanLatencyOptions options);

  /// Of a layer where all have these bits, with what is charged to it: what follows it up to the next layer.
  /// @throws Error `pare.plan.104` for a layer or bits that were not measured
  [[nodiscard]] double layer_ms(const std::string& layer, Bits bits) const;
  /// Predicts a plan and writes each layer's share (`Plan::Layer::latency_ms`). @return their sum
  /// @throws Error `pare.plan.104` for a plan of other layers than were measured
  double predict(Plan& plan) const;
  /// The steps of a plan.
  [[nodiscard]] LayerLatency steps(const Plan& plan) const;
  [[nodiscard]] const LatencyTable& table() const noexcept { return table_; }
  /// How to compile a plan: its bf16 layers are exceptions to `PlanLatencyOptions::compile`.
  [[nodiscard]] CompileOptions compile_options(const Plan& plan) const;

 private:
  void measure(const std::vector<std::vector<Bits>>& models);
  [[nodiscard]] std::vector<double> shares(const Plan& plan, const LayerLatency& latency, const Model& model) const;

  PlanLatencyOptions options_;
  Plan layers_;
  LatencyTable table_;
  std::vector<std::pair<Bits, std::vector<double>>> uniform_;  // of each precision, each layer
};

PARE_NAMESPACE_END
