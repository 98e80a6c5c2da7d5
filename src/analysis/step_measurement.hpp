#pragma once

#include <list>
#include <optional>

#include "analysis/execution_units.hpp"
#include "pare/analysis/latency_table.hpp"
#include "pare/core/batches.hpp"
#include "pare/execute/compiled_model.hpp"

PARE_NAMESPACE_BEGIN

/// The steps of one model, timed in several turns; the least disturbed time counts.
class StepMeasurement {
 public:
  StepMeasurement(const Model& model, const Batch& inputs, CompileOptions options);

  /// Whether the table has a time for every step.
  [[nodiscard]] bool is_known(const LatencyTable& table) const;
  /// Marks every step as known, with whatever time: for a copy that says what is left to measure.
  void expect(LatencyTable& table) const;
  /// Adds what `run_in_turns` found; what the table knows stays: where the rest of a model is another, other things lie
  /// in the caches, and the model that a step was first met in is the plainest.
  void record(LatencyTable& table) const;

  /// Runs every model for about `seconds`. A machine that is shared may run at half its speed for seconds: models
  /// measured in turns, a little each time, all meet it at its best.
  static void run_in_turns(std::list<StepMeasurement>& models, double seconds);

 private:
  /// Compiles the model, the first time, and runs it for about `seconds`; the fastest of all profiles is kept.
  void run(double seconds);

  Model model_;
  Batch inputs_;
  CompileOptions options_;
  ExecutionUnits units_;
  std::optional<CompiledModel> compiled_;
  std::optional<ExecutionProfile> fastest_;
};

/// The key of a step by its work alone, and with its neighbours; of what a call takes beside its steps.
[[nodiscard]] std::string work_key(const ExecutionUnit& unit);
[[nodiscard]] std::string step_key(const ExecutionUnit& unit);
[[nodiscard]] std::string call_key(const ExecutionUnits& units);

PARE_NAMESPACE_END
