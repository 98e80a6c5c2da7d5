// zoo: runs a recipe on one of the example models and says what it won and what it cost.
//
//   build/examples/zoo --model resnet20 --weights FILE --test FILE --calibration FILE --recipe int8 --json out.json
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <exception>
#include <fstream>
#include <nlohmann/json.hpp>

#include "examples/zoo/groups.hpp"
#include "examples/zoo/job.hpp"
#include "examples/zoo/recipe.hpp"

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
  zoo::JobOptions options;
  std::string json_path;
  CLI::App app{"Optimizes one of the example models and measures what was won and lost."};
  bool groups = false;
  app.add_option("--model", options.model, "Model name");
  app.add_flag("--groups", groups, "Print the channel groups of the model, or a table of all models, and nothing else");
  app.add_option("--weights", options.weights, "safetensors file; random weights without it");
  app.add_option("--test", options.test, "Data to measure on (CIFAR .bin or .pack, image folder, .tsv)");
  app.add_option("--calibration", options.calibration, "Data to calibrate on, in the same formats");
  app.add_option("--calibration-count", options.calibration_count, "Calibration samples")->check(CLI::PositiveNumber);
  app.add_option("--recipe", options.recipe,
                 fmt::format("Steps chained with +: {}", fmt::join(zoo::recipe_steps(), ", ")));
  app.add_option("--macs", options.macs, "Share of the multiply-accumulates that the recipe prune removes");
  app.add_option("--criterion", options.criterion,
                 fmt::format("How the recipe prune scores channels: {}", fmt::join(zoo::pruning_criteria(), ", ")));
  app.add_flag("--commit", options.commit,
               "The recipe prune leaves alone what the module's own forward has written in, and commits the result to "
               "the live module; with --groups: what that is");
  app.add_option("--round-to", options.round_to, "The recipe prune leaves a multiple of so many units of a group")
      ->check(CLI::Range(1, 256));
  app.add_flag("--gain", options.gain,
               "Also compile the original, and say layer by layer what was won and which layers ate the rest");
  app.add_option("--sparsity", options.sparsity, "Share of weights that the recipe sparse sets to zero")
      ->check(CLI::Range(0.0, 0.999));
  app.add_option("--average-bits", options.average_bits, "Bits of a weight in the mean that the recipe mixed keeps")
      ->check(CLI::Range(2.0, 8.0));
  app.add_flag("--exact", options.exact, "Exact sensitivities for the recipe mixed, instead of Fisher information");
  app.add_flag("--learned", options.learned, "Learned rounding of what the recipe mixed has planned");
  app.add_flag("--uniform", options.uniform, "The best uniform plan within the limits of the recipe joint instead");
  app.add_option("--max-drop", options.max_drop, "Points of top-1 that the recipe auto may lose")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--max-bytes", options.max_bytes, "Bytes of compiled weights that the recipe auto may leave")
      ->check(CLI::PositiveNumber);
  app.add_option("--max-stored", options.max_stored,
                 "Likewise, of weights stored each at its own width; also of the recipe joint")
      ->check(CLI::PositiveNumber);
  app.add_option("--max-latency-ms", options.max_latency_ms,
                 "Milliseconds of a call that the recipes auto and joint may leave")
      ->check(CLI::PositiveNumber);
  app.add_option("--student", options.student,
                 "Student of the recipe distill: LAYERS to keep of the longest stack, or RATIO of the "
                 "multiply-accumulates to prune away");
  app.add_option("--bits", options.bits, "W,A: bits of weights and activations that the recipe qat trains with");
  app.add_option("--finetune", options.finetune,
                 "Labelled data to train on after pruning, with the original as teacher");
  app.add_option("--epochs", options.epochs, "Epochs of --finetune")->check(CLI::Range(1, 10000));
  app.add_option("--batch", options.batch, "Batch size of the latency measurement")->check(CLI::Range(1, 4096));
  app.add_option("--threads", options.threads, "Threads of both halves")->check(CLI::Range(1, 1024));
  app.add_option("--seconds", options.seconds, "How long latency is measured")->check(CLI::Range(0.1, 600.0));
  app.add_flag("--tuned-baseline", options.tuned_baseline,
               "Also time eager LibTorch at its best: channels-last, and a malloc that keeps its pages");
  app.add_flag("--alone", options.alone, "Also time the optimized model by itself, its caches left to it");
  app.add_option("--export", options.exports.onnx, "Where to write the optimized model as ONNX");
  app.add_option("--samples", options.exports.samples,
                 "Where to write inputs and outputs as safetensors, for checking an export elsewhere");
  app.add_option("--save", options.exports.save, "Where to write the optimized model as a checkpoint");
  app.add_option("--load", options.load, "A checkpoint to take instead of running the recipe")
      ->check(CLI::ExistingFile);
  app.add_flag("--map", options.map, "Map the file of --load: packed weights stay integers")->needs("--load");
  app.add_option("--emit-c", options.exports.c_folder, "Folder to write the optimized model to as C99");
  app.add_option("--json", json_path, "Where to write the result as JSON");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "zoo: {}\n", error.what());
    return 2;
  }
  try {
    if (groups) {
      fmt::print("{}", !options.model.empty() ? zoo::describe_groups(options.model, options.commit)
                       : options.commit       ? zoo::commit_table()
                                              : zoo::groups_table());
      return 0;
    }
    if (options.model.empty()) throw std::runtime_error("--model is required");
    const auto result = zoo::run(options);
    print(options, result);
    for (const auto& line : result.written) fmt::print("{}\n", line);
    if (!json_path.empty()) {
      std::ofstream file(json_path);
      file << json(options, result).dump(2) << '\n';
      if (!file.flush()) throw std::runtime_error("cannot write " + json_path);
    }
    return 0;
  } catch (const std::exception& error) {
    const std::string text(error.what());
    fmt::print(stderr, "zoo: {}\n", text.substr(0, text.find('\n')));
    return 1;
  }
}
