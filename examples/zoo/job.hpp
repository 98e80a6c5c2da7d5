#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "examples/zoo/exports.hpp"
#include "examples/zoo/gain.hpp"
#include "pare/pipeline/drop_estimate.hpp"

namespace zoo {

/// What the command line asks for.
struct JobOptions {
  std::string model;
  std::string weights;      ///< safetensors; empty: random weights
  std::string test;         ///< data to measure accuracy on; empty: outputs are compared on random inputs
  std::string calibration;  ///< data to calibrate on; empty: random inputs
  std::int64_t calibration_count = 128;
  std::string recipe = "int8";  ///< chained with `+`
  std::int64_t batch = 1;       ///< of the latency measurement
  int threads = 2;
  double seconds = 4.0;         ///< how long latency is measured
  double macs = 0.5;            ///< of the recipe `prune`: share of the multiply-accumulates to remove
  std::string criterion;        ///< of the recipe `prune`; empty for the default
  bool commit = false;          ///< of `prune`: only what the live module can follow, and commit to it
  double sparsity = 0.8;        ///< of the recipe `sparse`
  std::string student = "0.5";  ///< of the recipe `distill`: layers to keep, or share to prune away
  std::string bits = "4,4";     ///< of the recipe `qat`: of weights and activations
  std::string finetune;         ///< labelled data to train on after pruning; empty: one-shot
  int epochs = 10;              ///< of fine-tuning
  std::string load;             ///< checkpoint to take instead of running the recipe
  bool map = false;             ///< maps that file instead of reading it
  Exports exports;              ///< files to leave behind
  bool tuned_baseline = false;  ///< also time eager LibTorch channels-last with a malloc that keeps its pages
  bool alone = false;           ///< also times the optimized model by itself
  bool gain = false;            ///< also times the original compiled, and both layer by layer
  std::int64_t round_to = 1;    ///< of the recipe `prune`: what is left of a group is a multiple of this
  double average_bits = 6;      ///< of the recipe `mixed`
  bool exact = false;           ///< of the recipe `mixed`: exact sensitivities instead of Fisher information
  bool learned = false;         ///< of `mixed`: learned rounding of the plan
  bool uniform = false;         ///< of `joint`: the best plan with all layers and groups alike, to compare with
  // Budget of the recipe `auto`, and of `joint` the last two.
  std::optional<double> max_drop;                     ///< of top-1, percentage points
  std::optional<std::int64_t> max_bytes, max_stored;  ///< of the weights: compiled, and each at its own width
  std::optional<double> max_latency_ms;
};

/// A model as it was (`float`) or as it became (`optimized`).
struct Half {
  std::optional<double> metric;  ///< top-1 accuracy, percent
  std::int64_t weight_bytes = 0;
  std::int64_t params = 0;          ///< trained numbers that are not zero
  std::int64_t resident_bytes = 0;  ///< weights and workspace held by the process for it
  double latency_ms = 0;            ///< median
  double latency_p99_ms = 0;
  std::int64_t macs = 0;                   ///< of one sample
  std::optional<double> tuned_latency_ms;  ///< median beside the tuned baseline
  std::optional<double> alone_ms;          ///< median of calls with nothing in between
};

/// What became of one layer.
struct Layer {
  std::string name, op, decision, reason;
  std::optional<double> sqnr_db;
};

/// Channels that pruning had to leave alone.
struct Frozen {
  std::string group, reason;
};

/// A model that was measured on the way to a plan.
struct Measured {
  std::string name;
  std::optional<double> metric;
  std::optional<std::int64_t> weight_bytes;  ///< compiled, where that was done
  std::int64_t stored_bytes = 0;
  double latency_ms = 0;  ///< 0: not measured
  bool on_front = true;
};

/// What a job found.
struct JobResult {
  std::string recipe;  ///< that was run; of a loaded file the one that made it
  std::int64_t samples = 0;
  Half before, after;
  double sqnr_db = 0;
  std::int64_t flips = 0;
  double capture_s = 0, optimize_s = 0, compile_s = 0;
  std::vector<Layer> layers;
  std::vector<Frozen> frozen;
  std::vector<std::string> notes;
  std::string plan;        ///< of the recipes that plan
  double evaluations = 0;  ///< likewise
  std::optional<Gain> gain;
  std::vector<Measured> pareto;
  std::optional<pare::DropEstimate> drop;  ///< of `auto`, on the samples that judged: shares of top-1
  std::string shortfall;                   ///< the limits that were not kept
  std::vector<std::string> written;        ///< a line for each file left behind
};

/// Names of the steps that a recipe may chain.
std::vector<std::string> recipe_steps();

/// Loads, captures, optimizes, compiles and measures.
/// @throws pare::Error with one line for whatever is wrong with the arguments or the files
JobResult run(const JobOptions& options);

}  // namespace zoo
