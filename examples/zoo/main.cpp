// zoo: runs a recipe on one of the example models and says what it won and what it cost.
//
//   build/examples/zoo --model resnet20 --weights FILE --test FILE --calibration FILE --recipe int8 --json out.json
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "examples/program.hpp"
#include "examples/zoo/arguments.hpp"
#include "examples/zoo/groups.hpp"
#include "examples/zoo/job.hpp"

namespace {

nlohmann::json number(double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(); }

nlohmann::json half(const zoo::Half& half) {
  return {{"metric", half.metric ? number(*half.metric) : nlohmann::json()},
          {"weight_bytes", half.weight_bytes},
          {"resident_bytes", half.resident_bytes},
          {"params", half.params},
          {"macs", half.macs},
          {"latency_ms", number(half.latency_ms)},
          {"latency_p99_ms", number(half.latency_p99_ms)},
          {"tuned_latency_ms", half.tuned_latency_ms ? number(*half.tuned_latency_ms) : nlohmann::json()},
          {"alone_ms", half.alone_ms ? number(*half.alone_ms) : nlohmann::json()}};
}

nlohmann::json gain(const std::optional<zoo::Gain>& gain) {
  if (!gain) return {};
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& row : gain->rows)
    rows.push_back({{"layer", row.layer},
                    {"before_ms", number(row.before_ms)},
                    {"after_ms", number(row.after_ms)},
                    {"macs_left", row.macs_left ? number(*row.macs_left) : nlohmann::json()},
                    {"lost_ms", number(row.lost_ms)}});
  return {{"before_ms", number(gain->before_ms)},
          {"after_ms", number(gain->after_ms)},
          {"macs_left", number(gain->macs_left)},
          {"layers", rows}};
}

nlohmann::json json(const zoo::JobOptions& options, const zoo::JobResult& result) {
  nlohmann::json layers = nlohmann::json::array();
  for (const auto& layer : result.layers)
    layers.push_back({{"name", layer.name},
                      {"op", layer.op},
                      {"decision", layer.decision},
                      {"reason", layer.reason},
                      {"sqnr_db", layer.sqnr_db ? number(*layer.sqnr_db) : nlohmann::json()}});
  nlohmann::json frozen = nlohmann::json::array();
  for (const auto& group : result.frozen) frozen.push_back({{"group", group.group}, {"reason", group.reason}});
  nlohmann::json pareto = nlohmann::json::array();
  for (const auto& point : result.pareto)
    pareto.push_back({{"name", point.name},
                      {"metric", point.metric ? number(*point.metric) : nlohmann::json()},
                      {"weight_bytes", point.weight_bytes ? nlohmann::json(*point.weight_bytes) : nlohmann::json()},
                      {"stored_bytes", point.stored_bytes},
                      {"latency_ms", number(point.latency_ms)},
                      {"on_front", point.on_front}});
  return {{"model", options.model},
          {"recipe", result.recipe},
          {"samples", result.samples},
          {"batch", options.batch},
          {"threads", options.threads},
          {"float", half(result.before)},
          {"optimized", half(result.after)},
          {"sqnr_db", number(result.sqnr_db)},
          {"flips", result.flips},
          {"capture_s", number(result.capture_s)},
          {"optimize_s", number(result.optimize_s)},
          {"compile_s", number(result.compile_s)},
          {"notes", result.notes},
          {"layers", layers},
          {"frozen", frozen},
          {"pareto", pareto},
          {"drop", result.drop ? nlohmann::json{{"seen", number(result.drop->drop)},
                                                {"low", number(result.drop->low)},
                                                {"high", number(result.drop->high)},
                                                {"samples", result.drop->samples}}
                               : nlohmann::json()},
          {"shortfall", result.shortfall},
          {"gain", gain(result.gain)},
          {"plan", result.plan},
          {"evaluations", number(result.evaluations)}};
}

std::string percent(const std::optional<double>& metric) { return metric ? fmt::format("{:.2f}", *metric) : "-"; }

void print(const zoo::JobOptions& options, const zoo::JobResult& result) {
  fmt::print("{:<34} {:<14} {:<10} {}\n", "layer", "op", "decision", "reason");
  for (const auto& layer : result.layers)
    fmt::print("{:<34} {:<14} {:<10} {}\n", layer.name, layer.op.substr(layer.op.rfind(':') + 1), layer.decision,
               layer.reason);
  for (const auto& note : result.notes) fmt::print("note: {}\n", note);
  const auto row = [](const char* name, const zoo::Half& half) {
    fmt::print("{:<10} {:>9} {:>14} {:>14} {:>12.3f} {:>12.3f}\n", name, percent(half.metric), half.weight_bytes,
               half.resident_bytes, half.latency_ms, half.latency_p99_ms);
  };
  fmt::print("\n{} {}: {} samples, SQNR {:.2f} dB, {} changed predictions, batch {}, {} threads\n", options.model,
             result.recipe, result.samples, result.sqnr_db, result.flips, options.batch, options.threads);
  fmt::print("{:<10} {:>9} {:>14} {:>14} {:>12} {:>12}\n", "", "top-1 %", "weight bytes", "resident", "median ms",
             "p99 ms");
  row("float", result.before);
  row("optimized", result.after);
  fmt::print("{} of {} MACs, {} of {} parameters\n", result.after.macs, result.before.macs, result.after.params,
             result.before.params);
  if (result.before.tuned_latency_ms)
    fmt::print("eager channels-last with tuned malloc {:.3f} ms, beside it {:.3f} ms: {:.2f}x faster\n",
               *result.before.tuned_latency_ms, *result.after.tuned_latency_ms,
               *result.before.tuned_latency_ms / *result.after.tuned_latency_ms);
  if (result.after.alone_ms) fmt::print("by itself {:.3f} ms\n", *result.after.alone_ms);
  if (result.gain) fmt::print("{}", result.gain->text(12));
  fmt::print("{:.2f}x faster, {:.3f} of the bytes; capture {:.2f} s, optimize {:.2f} s, compile {:.2f} s\n",
             result.before.latency_ms / result.after.latency_ms,
             static_cast<double>(result.after.weight_bytes) / static_cast<double>(result.before.weight_bytes),
             result.capture_s, result.optimize_s, result.compile_s);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Optimizes one of the example models and measures what was won and lost."};
  return program::run("zoo", app, 1, [&] {
    const auto arguments = zoo::parse(app, argc, argv);
    const auto& options = arguments.job;
    if (arguments.groups) {
      fmt::print("{}", !options.model.empty() ? zoo::describe_groups(options.model, options.commit)
                       : options.commit       ? zoo::commit_table()
                                              : zoo::groups_table());
      return 0;
    }
    const auto result = zoo::run(options);
    print(options, result);
    for (const auto& line : result.written) fmt::print("{}\n", line);
    if (!arguments.json.empty() && !program::write_text(arguments.json, json(options, result).dump(2) + '\n'))
      throw std::runtime_error("cannot write " + arguments.json);
    return 0;
  });
}
