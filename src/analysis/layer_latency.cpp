#include "pare/analysis/layer_latency.hpp"

#include <algorithm>
#include <list>
#include <ostream>

#include "analysis/execution_units.hpp"
#include "analysis/step_measurement.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

double LayerLatency::Row::intensity() const {
  return bytes > 0 ? 2.0 * static_cast<double>(macs) / static_cast<double>(bytes) : 0.0;
}

double LayerLatency::Row::gops() const { return ms > 0 ? 2e-6 * static_cast<double>(macs) / ms : 0.0; }

LayerLatency::LayerLatency(const Model& model, const Batch& inputs, LatencyTable& table, CompileOptions options,
                           double seconds) {
  options.threads = table.threads();
  std::list<StepMeasurement> steps;
  steps.emplace_back(model, inputs, options);
  const bool known = steps.front().is_known(table);
  if (!known) StepMeasurement::run_in_turns(steps, seconds);
  steps.front().record(table);
  *this = predicted(model, inputs, table, std::move(options));
  timed_ = !known;
}

LayerLatency LayerLatency::predicted(const Model& model, const Batch& inputs, const LatencyTable& table,
                                     CompileOptions options) {
  const auto found = find_execution_units(model, Interpreter::bind_dims(model.graph(), inputs), options);
  LayerLatency result;
  for (std::size_t i = 0; i < found.units.size(); ++i) {
    const auto& unit = found.units[i];
    auto ms = table.find(step_key(unit));
    const bool known = ms.has_value();
    if (!known) ms = table.similar(step_key(unit), work_key(unit).size() + 2);
    result.rows_.push_back(
        {unit.name, found.charged_to[i], unit.op, unit.precision, ms.value_or(0.0), unit.macs, unit.bytes, !known});
  }
  const auto beside = table.find(call_key(found));
  result.rows_.push_back({"(between steps)", found.charged_to.empty() ? "" : found.charged_to.front(), "-", "-",
                          beside.value_or(0.0), 0, 0, !beside});
  return result;
}

double LayerLatency::total_ms() const {
  double sum = 0;
  for (const auto& row : rows_) sum += row.ms;
  return sum;
}

double LayerLatency::layer_ms(std::string_view weight) const {
  double sum = 0;
  for (const auto& row : rows_)
    if (row.layer == weight) sum += row.ms;
  return sum;
}

std::size_t LayerLatency::guessed() const {
  return static_cast<std::size_t>(std::ranges::count_if(rows_, &Row::guessed));
}

std::string LayerLatency::text(const std::optional<MachineLimits>& limits) const {
  std::size_t width = 15;
  for (const auto& row : rows_) width = std::max(width, row.name.size());
  auto text = fmt::format("{:<{}}  {:<20}  {:<9}  {:>9}  {:>5}  {:>10}  {:>9}  {:>7}", "step", width, "op", "precision",
                          "ms", "%", "Mop", "KiB", "op/byte");
  if (limits) text += fmt::format("  {:>7}  {:>6}  {}", "Gop/s", "% roof", "bound");
  text += '\n';
  const auto total = total_ms();
  for (const auto& row : rows_) {
    if (row.ms == 0) continue;
    text += fmt::format("{:<{}}  {:<20}  {:<9}  {:>9.4f}  {:>5.1f}  {:>10.3f}  {:>9.1f}  {:>7.1f}", row.name, width,
                        row.op.substr(row.op.rfind(':') + 1), row.precision, row.ms, 100 * row.ms / total,
                        2e-6 * static_cast<double>(row.macs), static_cast<double>(row.bytes) / 1024, row.intensity());
    if (limits && row.macs > 0) {
      const auto roof = limits->roof(row.precision, row.intensity());
      text += fmt::format("  {:>7.1f}  {:>6.1f}  {}", row.gops(), 100 * row.gops() / roof,
                          roof < limits->gops(row.precision) ? "memory" : "compute");
    } else if (limits && row.bytes > 0) {
      // No arithmetic that counts: its roof is the memory's.
      const auto gbytes = 1e-6 * static_cast<double>(row.bytes) / row.ms;
      text += fmt::format("  {:>7}  {:>6.1f}  memory", "-", 100 * gbytes / limits->gbytes);
    }
    text += row.guessed ? "  guessed\n" : "\n";
  }
  return text + fmt::format("{:<{}}  {:<20}  {:<9}  {:>9.4f}\n", "a call", width, "", "", total);
}

std::ostream& operator<<(std::ostream& stream, const LayerLatency& latency) { return stream << latency.text(); }

PARE_NAMESPACE_END
