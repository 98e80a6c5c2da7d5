#include "examples/zoo/arguments.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "examples/program.hpp"
#include "examples/zoo/recipe.hpp"
#include "pare/core/error.hpp"

namespace zoo {

namespace {

constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
constexpr double kLongest = 1e9;  // milliseconds of a call

/// Options that only some steps of a recipe read.
using Owned = std::vector<std::pair<CLI::Option*, std::vector<std::string>>>;

Owned add_recipe_options(CLI::App& app, JobOptions& job) {
  Owned owned;
  const auto of = [&](std::vector<std::string> recipes, CLI::Option* option) {
    owned.emplace_back(option, std::move(recipes));
    return option;
  };
  of({"prune"}, app.add_option("--macs", job.macs, "Share of the multiply-accumulates that the recipe prune removes"));
  of({"prune"},
     app.add_option("--criterion", job.criterion,
                    fmt::format("How the recipe prune scores channels: {}", fmt::join(pruning_criteria(), ", "))));
  of({"prune"}, app.add_flag("--commit", job.commit,
                             "The recipe prune leaves alone what the module's own forward has written in, and commits "
                             "the result to the live module; with --groups: what that is"));
  of({"prune"},
     app.add_option("--round-to", job.round_to, "The recipe prune leaves a multiple of so many units of a group")
         ->check(CLI::Range(1, 256)));
  of({"sparse"}, app.add_option("--sparsity", job.sparsity, "Share of weights that the recipe sparse sets to zero")
                     ->check(program::within(0.0, 0.999)));
  of({"mixed", "joint"},
     app.add_option("--average-bits", job.average_bits, "Bits of a weight in the mean that the recipe mixed keeps")
         ->check(program::within(2.0, 8.0)));
  of({"mixed", "joint"},
     app.add_flag("--exact", job.exact, "Exact sensitivities for the recipe mixed, instead of Fisher information"));
  of({"mixed", "joint"},
     app.add_flag("--learned", job.learned, "Learned rounding of what the recipe mixed has planned"));
  of({"joint"},
     app.add_flag("--uniform", job.uniform, "The best uniform plan within the limits of the recipe joint instead"));
  of({"auto"}, app.add_option("--max-drop", job.max_drop, "Points of top-1 that the recipe auto may lose")
                   ->check(program::within(0.0, 100.0)));
  of({"auto"}, app.add_option("--max-bytes", job.max_bytes, "Bytes of compiled weights that the recipe auto may leave")
                   ->check(CLI::Range(std::int64_t{1}, kMost)));
  of({"auto", "joint"}, app.add_option("--max-stored", job.max_stored,
                                       "Likewise, of weights stored each at its own width; also of the recipe joint")
                            ->check(CLI::Range(std::int64_t{1}, kMost)));
  of({"auto", "joint"}, app.add_option("--max-latency-ms", job.max_latency_ms,
                                       "Milliseconds of a call that the recipes auto and joint may leave")
                            ->check(program::within(1 / kLongest, kLongest)));
  of({"distill"}, app.add_option("--student", job.student,
                                 "Student of the recipe distill: LAYERS to keep of the longest stack, or RATIO of the "
                                 "multiply-accumulates to prune away"));
  of({"qat"},
     app.add_option("--bits", job.bits, "W,A: bits of weights and activations that the recipe qat trains with"));
  auto* finetune = of({"prune", "sparse", "distill", "qat", "auto"},
                      app.add_option("--finetune", job.finetune,
                                     "Labelled data to train on after pruning, with the original as teacher")
                          ->check(program::not_empty()));
  app.add_option("--epochs", job.epochs, "Epochs of --finetune")->check(CLI::Range(1, 10000))->needs(finetune);
  return owned;
}

void add_files(CLI::App& app, Arguments& arguments) {
  auto& job = arguments.job;
  app.add_option("--export", job.exports.onnx, "Where to write the optimized model as ONNX")
      ->check(program::writable_file());
  app.add_option("--samples", job.exports.samples,
                 "Where to write inputs and outputs as safetensors, for checking an export elsewhere")
      ->check(program::writable_file());
  app.add_option("--save", job.exports.save, "Where to write the optimized model as a checkpoint")
      ->check(program::writable_file());
  auto* load = app.add_option("--load", job.load, "A checkpoint to take instead of running the recipe")
                   ->check(CLI::ExistingFile);
  app.add_flag("--map", job.map, "Map the file of --load: packed weights stay integers")->needs(load);
  app.add_option("--emit-c", job.exports.c_folder, "Folder to write the optimized model to as C99")
      ->check(program::not_empty());
  app.add_option("--json", arguments.json, "Where to write the result as JSON")->check(program::writable_file());
}

// What nothing reads would be lost without a word: whoever gave it meant something by it.
void check_owned(const JobOptions& job, const Owned& owned) {
  const auto steps = parse_recipe(job.recipe);
  for (const auto& [option, recipes] : owned) {
    if (option->count() == 0) continue;
    const auto reads = [&](const std::string& step) { return std::ranges::find(steps, step) != steps.end(); };
    if (!job.load.empty()) pare::fail("zoo.109", option->get_name(), "with --load no recipe is run that reads it");
    if (std::ranges::none_of(recipes, reads))
      pare::fail("zoo.109", option->get_name(), "of the recipes only {} read{} it", fmt::join(recipes, ", "),
                 recipes.size() == 1 ? "s" : "");
  }
}

// Two results in one file would be one of them.
void check_files(const Arguments& arguments) {
  const auto& exports = arguments.job.exports;
  std::set<std::filesystem::path> taken;
  for (const auto& path : {exports.onnx, exports.samples, exports.save, arguments.json})
    if (!path.empty() && !taken.insert(std::filesystem::absolute(path).lexically_normal()).second)
      throw std::runtime_error(path + " is named for two results");
}

}  // namespace

Arguments parse(CLI::App& app, int argc, char** argv) {
  Arguments arguments;
  auto& job = arguments.job;
  auto* model = app.add_option("--model", job.model, "Model name")->check(program::not_empty());
  auto* groups = app.add_flag("--groups", arguments.groups,
                              "Print the channel groups of the model, or a table of all models, and nothing else");
  app.add_option("--weights", job.weights, "safetensors file; random weights without it")->check(program::not_empty());
  app.add_option("--test", job.test, "Data to measure on (CIFAR .bin or .pack, image folder, .tsv)")
      ->check(program::not_empty());
  app.add_option("--calibration", job.calibration, "Data to calibrate on, in the same formats")
      ->check(program::not_empty());
  app.add_option("--calibration-count", job.calibration_count, "Calibration samples")
      ->check(CLI::Range(std::int64_t{1}, kMost));
  app.add_option("--recipe", job.recipe, fmt::format("Steps chained with +: {}", fmt::join(recipe_steps(), ", ")));
  const auto owned = add_recipe_options(app, job);
  app.add_option("--batch", job.batch, "Batch size of the latency measurement")->check(CLI::Range(1, 4096));
  app.add_option("--threads", job.threads, "Threads of both halves")->check(CLI::Range(1, 1024));
  app.add_option("--seconds", job.seconds, "How long latency is measured")->check(program::within(0.1, 600.0));
  app.add_flag("--tuned-baseline", job.tuned_baseline,
               "Also time eager LibTorch at its best: channels-last, and a malloc that keeps its pages");
  app.add_flag("--alone", job.alone, "Also time the optimized model by itself, its caches left to it");
  app.add_flag("--gain", job.gain,
               "Also compile the original, and say layer by layer what was won and which layers ate the rest");
  add_files(app, arguments);
  app.parse(argc, argv);
  if (arguments.groups) {
    for (const auto* option : app.get_options())
      if (option->count() > 0 && option != model && option != groups && option->get_name() != "--commit")
        throw std::runtime_error(option->get_name() + ": --groups prints groups and does nothing else");
    return arguments;
  }
  if (job.model.empty()) throw std::runtime_error("--model is required");
  check_owned(job, owned);
  check_files(arguments);
  return arguments;
}

}  // namespace zoo
