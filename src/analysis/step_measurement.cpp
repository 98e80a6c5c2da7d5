#include "analysis/step_measurement.hpp"

#include <algorithm>
#include <map>

#include "pare/execute/compile.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

std::string call_key(const ExecutionUnits& units) { return "step " + units.call; }
std::string work_key(const ExecutionUnit& unit) { return "step " + unit.what; }
std::string step_key(const ExecutionUnit& unit) { return work_key(unit) + unit.context; }

StepMeasurement::StepMeasurement(const Model& model, const Batch& inputs, CompileOptions options)
    : model_(model),
      inputs_(inputs),
      options_(std::move(options)),
      units_(find_execution_units(model, Interpreter::bind_dims(model.graph(), inputs), options_)) {}

bool StepMeasurement::is_known(const LatencyTable& table) const {
  return table.find(call_key(units_)) && std::ranges::all_of(units_.units, [&](const ExecutionUnit& unit) {
           return table.find(step_key(unit)).has_value();
         });
}

void StepMeasurement::expect(LatencyTable& table) const {
  table.set(call_key(units_), 0);
  for (const auto& unit : units_.units) table.set(step_key(unit), 0);
}

void StepMeasurement::run_in_turns(std::list<StepMeasurement>& models, double seconds) {
  constexpr int kTurns = 4;
  for (int turn = 0; turn < kTurns; ++turn)
    for (auto& model : models) model.run(seconds / kTurns);
}

void StepMeasurement::run(double seconds) {
  if (!compiled_) compiled_ = compile(model_, options_);
  auto profile = compiled_->profile(inputs_, seconds);
  if (!fastest_ || profile.call_ms < fastest_->call_ms) fastest_ = std::move(profile);
}

// Steps that do the same between the same neighbours share the mean of their times.
void StepMeasurement::record(LatencyTable& table) const {
  if (!fastest_) return;
  std::vector<double> ms(units_.units.size(), 0.0);
  double outside = 0;  // what belongs to no node: time between steps, results that are converted
  for (const auto& step : fastest_->steps) {
    const auto unit = units_.unit_of.find(step.row.name);
    (unit == units_.unit_of.end() ? outside : ms[unit->second]) += step.ms;
  }
  std::map<std::string, std::pair<double, double>> sums;
  for (std::size_t i = 0; i < ms.size(); ++i) {
    auto& [sum, count] = sums[step_key(units_.units[i])];
    sum += ms[i];
    ++count;
  }
  const auto keep = [&](const std::string& key, double time) {
    if (!table.find(key)) table.set(key, time);
  };
  for (const auto& [key, sum] : sums) keep(key, sum.first / sum.second);
  keep(call_key(units_), outside);
}

PARE_NAMESPACE_END
