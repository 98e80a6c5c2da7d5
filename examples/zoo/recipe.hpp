#pragma once

#include <optional>
#include <string>
#include <vector>

#include "examples/zoo/finetune.hpp"
#include "examples/zoo/job.hpp"
#include "pare/capture/live_module.hpp"
#include "pare/execute/compile.hpp"
#include "pare/graph/model.hpp"
#include "pare/pass/pass.hpp"
#include "pare/pass/report.hpp"
#include "pare/pipeline/drop_estimate.hpp"

namespace zoo {

using Batches = std::vector<std::vector<torch::Tensor>>;

/// What the steps of a recipe may want to know.
struct RecipeOptions {
  Batches calibration;
  int threads = 2;
  bool integers_only = false;       ///< of `int8`: no layer stays float to gain accuracy, as C wants it
  double macs = 0.5;                ///< of `prune`: share of the multiply-accumulates to remove
  std::string criterion = {};       ///< of `prune`: l1, l2, taylor, ...; empty: least squares
  pare::LiveModule commit_to = {};  ///< of `prune`: the module that the result is to be committed to; none: any model
  std::int64_t round_to = 1;        ///< of `prune`: what is left of a group is a multiple of this
  double sparsity = 0.8;            ///< of `sparse`: share of weights that become zero
  std::string student = {};         ///< of `distill`: layers to keep, or share of the multiply-accumulates to remove
  std::string bits = "4,4";         ///< of `qat`: of weights and activations
  data::Set training = {};          ///< to fine-tune on after pruning; empty: no fine-tuning
  FinetuneOptions finetune = {};
  double average_bits = 6;  ///< of `mixed`: of a weight
  bool exact = false;       ///< of `mixed`: exact sensitivities instead of Fisher information
  bool learned = false;     ///< of `mixed`: learned rounding of the plan
  bool uniform = false;     ///< of `joint`: the best plan with all layers and groups alike, to compare with
  // Of `auto` and `joint`: the budget, and samples that judge (none: for `auto` the calibration samples do, in turns).
  std::optional<double> max_drop = {};  ///< percentage points
  std::optional<std::int64_t> max_bytes = {}, max_stored = {};
  std::optional<double> max_latency_ms = {};
  Batches validation = {};
  torch::Tensor validation_labels = {}, calibration_labels = {};
};

/// An optimized model, how to compile it, and what was done to get there.
struct Recipe {
  std::string name = {};  ///< the steps it was made by, of a file as the file says
  pare::Model model;
  pare::CompileOptions compile;
  pare::Report report;
  std::string plan = {};                        ///< a table, where one was made
  double evaluations = 0;                       ///< what planning took, in runs over the calibration data
  std::vector<Measured> pareto = {};            ///< what was measured on the way
  std::optional<pare::DropEstimate> drop = {};  ///< of `auto`, on the samples that judged
  std::string shortfall = {};                   ///< the limits that were not kept; empty: none
  std::vector<std::string> notes = {};
};

/// Splits `a+b`. @throws pare::Error `zoo.101` for a step that does not exist
std::vector<std::string> parse_recipe(const std::string& text);

/// Runs the steps in order on a copy of `model`.
Recipe apply_recipe(const std::vector<std::string>& steps, const pare::Model& model, const RecipeOptions& options);

/// Runs a pass on the recipe's model, calibrated as the options say; its rows go into the recipe's report.
void apply_pass(Recipe& recipe, const RecipeOptions& options, const pare::AnyPass& pass);

/// The criteria that `prune` knows by name.
std::vector<std::string> pruning_criteria();

/// One row for each layer of the report, with its SQNR against the float model where both have it.
std::vector<Layer> layer_rows(const pare::Model& original, const Recipe& recipe, const Batches& calibration,
                              const pare::ExecutionReport& execution);

}  // namespace zoo
