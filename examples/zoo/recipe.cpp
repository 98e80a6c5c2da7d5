#include "examples/zoo/recipe.hpp"

#include "examples/zoo/automatic.hpp"
#include "examples/zoo/mixed.hpp"

#include <fmt/ranges.h>
#include <torch/torch.h>

#include <algorithm>
#include <map>

#include "examples/zoo/distill.hpp"
#include "examples/zoo/qat.hpp"
#include "pare/capture/commit.hpp"
#include "pare/core/error.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/numerics/min_max.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/activation.hpp"
#include "pare/prune/batch_norm_scale.hpp"
#include "pare/prune/fisher.hpp"
#include "pare/prune/geometric_median.hpp"
#include "pare/prune/l1.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/lamp.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/prune/random.hpp"
#include "pare/prune/sparsifier.hpp"
#include "pare/prune/taylor.hpp"
#include "pare/prune/wanda.hpp"
#include "pare/quantize/compare.hpp"
#include "pare/quantize/quantizer.hpp"

namespace zoo {

namespace {

using Step = void (*)(Recipe& recipe, const RecipeOptions& options);

// After pruning, where training data is given: with the model as it was before as the teacher.
void train_again(Recipe& recipe, const pare::Model& teacher, const RecipeOptions& options) {
  if (options.training.labels.defined() && options.finetune.epochs > 0)
    finetune(recipe.model, teacher, options.training, options.finetune);
}

// Into the live module and out again: what follows compares with the module as it was.
void try_commit(Recipe& recipe, torch::nn::Module& module) {
  auto committed = pare::commit(recipe.model, module);
  recipe.notes.push_back(
      fmt::format("committed: {} tensors of the live module written, its own forward agrees; put back",
                  committed.tensors().size()));
  committed.roll_back();
}

template <class Importance>
void prune_by(Recipe& recipe, const RecipeOptions& options) {
  apply_pass(recipe, options,
             pare::Pruner<Importance>{
                 .macs = pare::Ratio{options.macs}, .round_to = options.round_to, .commit_to = options.commit_to});
}

const std::map<std::string, Step>& criteria() {
  static const std::map<std::string, Step> table{{"lsq", prune_by<pare::LeastSquares>},
                                                 {"l1", prune_by<pare::L1>},
                                                 {"l2", prune_by<pare::L2>},
                                                 {"bn", prune_by<pare::BatchNormScale>},
                                                 {"taylor", prune_by<pare::Taylor>},
                                                 {"fisher", prune_by<pare::Fisher>},
                                                 {"fpgm", prune_by<pare::GeometricMedian>},
                                                 {"activation", prune_by<pare::Activation>},
                                                 {"wanda", prune_by<pare::Wanda>},
                                                 {"lamp", prune_by<pare::Lamp>},
                                                 {"random", prune_by<pare::Random>}};
  return table;
}

void prune(Recipe& recipe, const RecipeOptions& options) {
  const auto found = criteria().find(options.criterion.empty() ? "lsq" : options.criterion);
  if (found == criteria().end())
    pare::fail("zoo.104", "", "unknown criterion '{}'; known: {}", options.criterion,
               fmt::format("{}", fmt::join(pruning_criteria(), ", ")));
  const auto teacher = recipe.model;
  found->second(recipe, options);
  train_again(recipe, teacher, options);
  if (options.commit_to) try_commit(recipe, *options.commit_to.module());
}

const std::map<std::string, Step>& steps() {
  static const std::map<std::string, Step> table{
      {"float", [](Recipe&, const RecipeOptions&) {}},
      {"bf16", [](Recipe& recipe, const RecipeOptions&) { recipe.compile.dtype = torch::kBFloat16; }},
      {"int8",
       [](Recipe& recipe, const RecipeOptions& options) {
         pare::Quantizer quantizer;
         if (options.integers_only) quantizer.float_first_share = 0.0;
         apply_pass(recipe, options, quantizer);
       }},
      // The same integers in every runtime.
      {"int8-exact",
       [](Recipe& recipe, const RecipeOptions& options) {
         apply_pass(recipe, options, pare::Quantizer{.exact_scales = true});
       }},
      // For ONNX Runtime, whose convolutions are integer only where their own result is.
      {"int8-onnxruntime",
       [](Recipe& recipe, const RecipeOptions& options) {
         apply_pass(recipe, options, pare::Quantizer{.target = &pare::onnxruntime_target()});
       }},
      {"int8-onnxruntime-exact",
       [](Recipe& recipe, const RecipeOptions& options) {
         apply_pass(recipe, options, pare::Quantizer{.exact_scales = true, .target = &pare::onnxruntime_target()});
       }},
      {"w4a8",
       [](Recipe& recipe, const RecipeOptions& options) {
         apply_pass(recipe, options, pare::Quantizer{.weights = {4}, .rounding = pare::Rounding::Learned});
       }},
      // Weights of 4 bits in groups of 32 and nothing else, as language models run.
      {"w4",
       [](Recipe& recipe, const RecipeOptions& options) {
         apply_pass(recipe, options,
                    pare::Quantizer{.weights = {4}, .granularity = pare::PerGroup{32}, .weight_only = true});
       }},
      // What the default ladder is measured against: one scale a tensor, nearest rounding, whole ranges.
      {"int8-naive",
       [](Recipe& recipe, const RecipeOptions& options) {
         apply_pass(recipe, options,
                    pare::Quantizer{.observer = pare::MinMax{},
                                    .weight_observer = pare::WeightMinMax{},
                                    .granularity = pare::PerTensor{},
                                    .rounding = pare::Rounding::Nearest,
                                    .correct_bias = false,
                                    .smooth = false,
                                    .judge_ranges = false,
                                    .float_first_share = 0});
       }},
      {"prune", prune},
      {"mixed", mixed},
      {"joint", joint},
      {"auto", automatic},
      {"distill", distill},
      {"qat", qat},
      {"sparse",
       [](Recipe& recipe, const RecipeOptions& options) {
         const auto teacher = recipe.model;
         apply_pass(recipe, options, pare::Sparsifier{.sparsity = {options.sparsity}});
         train_again(recipe, teacher, options);
       }},
  };
  return table;
}

}  // namespace

std::vector<std::string> pruning_criteria() {
  std::vector<std::string> names;
  for (const auto& [name, step] : criteria()) names.push_back(name);
  return names;
}

std::vector<std::string> recipe_steps() {
  std::vector<std::string> names;
  for (const auto& [name, step] : steps()) names.push_back(name);
  return names;
}

std::vector<std::string> parse_recipe(const std::string& text) {
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find('+', begin), text.size());
    names.push_back(text.substr(begin, end - begin));
    if (!steps().contains(names.back()))
      pare::fail("zoo.101", "", "unknown recipe step '{}'; known: {}", names.back(),
                 fmt::format("{}", fmt::join(recipe_steps(), ", ")));
    begin = end + 1;
  }
  return names;
}

void apply_pass(Recipe& recipe, const RecipeOptions& options, const pare::AnyPass& pass) {
  pare::ContextOptions context;
  context.calibration = options.calibration;
  auto applied = pare::apply(pass, recipe.model, std::move(context));
  recipe.model = std::move(applied.model);
  recipe.report.append(applied.report);
}

Recipe apply_recipe(const std::vector<std::string>& names, const pare::Model& model, const RecipeOptions& options) {
  Recipe recipe{{}, model, {}, {}};
  recipe.compile.threads = options.threads;
  for (const auto& name : names) steps().at(name)(recipe, options);
  return recipe;
}

std::vector<Layer> layer_rows(const pare::Model& original, const Recipe& recipe, const Batches& calibration,
                              const pare::ExecutionReport& execution) {
  std::vector<Layer> layers;
  if (recipe.report.rows().empty()) {
    for (const auto& row : execution.rows)
      layers.push_back({row.name,
                        row.op,
                        row.implementation == "aten" ? "declined" : "done",
                        row.reason.empty() ? row.precision + " " + row.implementation : row.reason,
                        {}});
    return layers;
  }
  std::map<std::string, double> sqnr;
  const std::vector<std::vector<torch::Tensor>> sample{calibration.front()};
  // Where batch norms went into their layers, layers are compared by what they give with them.
  const auto& nodes = recipe.model.graph().nodes();
  const bool folded = std::ranges::none_of(
      nodes, [&](pare::NodeId id) { return recipe.model.graph().node(id).is("aten::batch_norm"); });
  const auto reference = folded ? pare::apply(pare::FoldBatchNorm{}, original).model : original;
  for (const auto& row : pare::compare(reference, recipe.model, sample)) sqnr[row.layer] = row.sqnr_db;
  for (const auto& row : recipe.report.rows()) {
    Layer layer{row.layer, row.op, std::string(pare::to_string(row.decision)), row.reason, {}};
    if (const auto found = sqnr.find(row.layer); found != sqnr.end()) layer.sqnr_db = found->second;
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace zoo
