#include "examples/zoo/job.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <sstream>

#include "examples/data/dataset.hpp"
#include "examples/models/captured.hpp"
#include "examples/zoo/baseline.hpp"
#include "examples/zoo/recipe.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/analysis/latency.hpp"
#include "pare/checkpoint/checkpoint.hpp"
#include "pare/checkpoint/map_checkpoint.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/round_biases.hpp"

namespace zoo {

namespace {

using models::Tensors;
using Forward = std::function<Tensors(const Tensors&)>;

constexpr double kEqualDb = 200.0;  // what outputs without any difference are given as: JSON has no infinity

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The samples a job works on. From one folder that serves as both, every (count / N)-th sample calibrates and the rest
// tests; from two files, the first N of the calibration file calibrate.
struct Samples {
  std::vector<Tensors> calibration;
  std::vector<Tensors> test;
  torch::Tensor labels;             // undefined on random inputs and where a folder has masks
  std::vector<Tensors> validation;  // from the calibration file, behind what calibrates
  torch::Tensor validation_labels, calibration_labels;
  std::int64_t count = 0;
};

// Classes; undefined where a folder has masks, by which pictures calibrate and are compared all the same.
torch::Tensor classes_in(const data::Set& set) {
  return set.labels.defined() && set.labels.dim() == 1 ? set.labels : torch::Tensor();
}

data::Set rows(const data::Set& set, const torch::Tensor& index) {
  data::Set part;
  for (const auto& input : set.inputs) part.inputs.push_back(input.index_select(0, index));
  part.labels = set.labels.index_select(0, index);
  return part;
}

Samples random_samples(const models::Bundle& bundle, std::int64_t calibration) {
  Samples samples;
  constexpr std::int64_t kBatch = 8;
  for (std::int64_t i = 0; i < calibration; i += kBatch) samples.calibration.push_back(bundle.example(kBatch));
  samples.test = {bundle.example(kBatch), bundle.example(kBatch)};
  samples.count = 2 * kBatch;
  return samples;
}

// The first `count` samples of a set of batches; fewer are repeated.
Tensors first_samples(const std::vector<Tensors>& batches, std::int64_t count) {
  Tensors samples;
  for (std::size_t input = 0; input < batches.at(0).size(); ++input) {
    Tensors parts;
    std::int64_t rows = 0;
    for (std::size_t b = 0; rows < count; b = (b + 1) % batches.size()) {
      parts.push_back(batches[b][input]);
      rows += parts.back().size(0);
    }
    samples.push_back(torch::cat(parts).narrow(0, 0, count).contiguous());
  }
  return samples;
}

// Sentences one by one, without what fills up the shorter ones: nothing should be learned from padding.
std::vector<Tensors> sentences(const data::Set& set) {
  auto batches = set.batches(1);
  for (auto& batch : batches) {
    const auto length = batch.at(1).sum().item<std::int64_t>();
    for (auto& input : batch) input = input.narrow(1, 0, length);
  }
  return batches;
}

// Whether a recipe wants samples of its own to judge by.
bool judges(const JobOptions& options) {
  return options.recipe.find("auto") != std::string::npos || options.recipe.find("joint") != std::string::npos;
}

void load_validation(const models::Bundle& bundle, const JobOptions& options, Samples& samples) {
  constexpr std::int64_t kBatch = 16, kMost = 1024;
  data::LoadOptions behind;
  behind.offset = options.calibration_count;
  behind.limit = kMost;
  try {
    const auto set = data::load(options.calibration, bundle.input, behind);
    samples.validation = bundle.input.kind == data::InputFormat::Kind::kTokens ? sentences(set) : set.batches(kBatch);
    samples.validation_labels = classes_in(set);
  } catch (const pare::Error& error) {
    if (error.id() != "pare.data.106") throw;  // nothing behind: the calibration samples are divided
  }
}

Samples load_samples(const models::Bundle& bundle, const JobOptions& options) {
  constexpr std::int64_t kBatch = 16;
  constexpr std::int64_t kRandomCalibration = 32;
  Samples samples = random_samples(bundle, std::min(options.calibration_count, kRandomCalibration));
  data::Set test, calibration;
  if (!options.test.empty()) test = data::load(options.test, bundle.input, {});
  if (!options.calibration.empty() && options.calibration == options.test) {
    const auto step = std::max<std::int64_t>(1, test.size() / options.calibration_count);
    const auto all = torch::arange(test.size());
    const auto chosen = all.remainder(step).eq(0).logical_and(all.lt(step * options.calibration_count));
    calibration = rows(test, all.masked_select(chosen));
    test = rows(test, all.masked_select(chosen.logical_not()));
    if (test.size() == 0)
      pare::fail("zoo.103", options.test, "calibration takes all {} samples and leaves none to test on", all.numel());
  } else if (!options.calibration.empty()) {
    data::LoadOptions first;
    first.limit = options.calibration_count;
    calibration = data::load(options.calibration, bundle.input, first);
    if (judges(options)) load_validation(bundle, options, samples);
  }
  samples.calibration_labels = classes_in(calibration);
  if (!options.calibration.empty())
    samples.calibration =
        bundle.input.kind == data::InputFormat::Kind::kTokens ? sentences(calibration) : calibration.batches(kBatch);
  if (!options.test.empty()) {
    samples.test = test.batches(kBatch);
    samples.labels = classes_in(test);
    samples.count = test.size();
  }
  return samples;
}

// All first outputs, one row a sample.
torch::Tensor outputs(const Forward& forward, const std::vector<Tensors>& batches) {
  std::vector<torch::Tensor> rows;
  for (const auto& batch : batches) {
    const auto result = forward(batch);
    rows.push_back(result.at(0).to(torch::kFloat).flatten(1).clone());
  }
  return torch::cat(rows);
}

// How many scores the model gives one sample.
std::int64_t classes_of(const models::Bundle& bundle, const Samples& samples) {
  const torch::NoGradGuard no_grad;
  Tensors one;
  for (const auto& input : samples.test.front()) one.push_back(input.narrow(0, 0, 1));
  return bundle.forward(one).at(0).flatten(1).size(1);
}

std::int64_t module_bytes(const torch::nn::Module& module) {
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : pare::named_weights(module)) bytes += static_cast<std::int64_t>(tensor.nbytes());
  return bytes;
}

std::int64_t nonzero_parameters(const pare::Model& model) {
  std::int64_t count = 0;
  for (const auto& parameter : model.parameters()) count += parameter.count_nonzero().item<std::int64_t>();
  return count;
}

std::int64_t rows_in(const std::vector<Tensors>& batches) {
  std::int64_t count = 0;
  for (const auto& batch : batches) count += batch.at(0).size(0);
  return count;
}

// A label of no class that the model has would only lower a figure, or stop a training in its middle.
void check_labels(const torch::Tensor& labels, std::int64_t classes, const std::string& path) {
  if (!labels.defined()) return;
  const auto largest = labels.max().item<std::int64_t>();
  if (largest >= classes)
    pare::fail("pare.data.104", path, "a label is {}: the model has {} classes, counted from 0", largest, classes);
}

RecipeOptions recipe_options(const models::Bundle& bundle, const JobOptions& options, const Samples& samples,
                             std::int64_t classes) {
  RecipeOptions recipe{.calibration = samples.calibration,
                       .threads = options.threads,
                       .integers_only = !options.exports.c_folder.empty(),
                       .macs = options.macs,
                       .criterion = options.criterion,
                       .commit_to = options.commit ? pare::LiveModule(*bundle.module) : pare::LiveModule(),
                       .round_to = options.round_to,
                       .sparsity = options.sparsity,
                       .student = options.student,
                       .bits = options.bits,
                       .average_bits = options.average_bits,
                       .exact = options.exact,
                       .learned = options.learned,
                       .uniform = options.uniform,
                       .max_drop = options.max_drop,
                       .max_bytes = options.max_bytes,
                       .max_stored = options.max_stored,
                       .max_latency_ms = options.max_latency_ms,
                       .validation = samples.validation,
                       .validation_labels = samples.validation_labels,
                       .calibration_labels = samples.calibration_labels};
  if (!options.finetune.empty()) {
    // What judges does not train.
    data::LoadOptions behind;
    if (options.finetune == options.calibration && judges(options))
      behind.offset = options.calibration_count + rows_in(samples.validation);
    recipe.training = data::load(options.finetune, bundle.input, behind);
    if (recipe.training.labels.dim() != 1)
      pare::fail("pare.data.103", options.finetune, "masks are no classes, which the recipes train for");
    check_labels(recipe.training.labels, classes, options.finetune);
    recipe.finetune.epochs = options.epochs;
  }
  return recipe;
}

void load_module(models::Bundle& bundle, const JobOptions& options) {
  if (options.weights.empty()) {
    models::settle(bundle);
  } else {
    pare::load_weights(*bundle.module, pare::SafeTensors(options.weights), bundle.load);
  }
  bundle.module->eval();
}

constexpr auto kModel = "zoo.model", kRecipe = "zoo.recipe", kPlan = "zoo.plan", kBf16 = "zoo.bf16", kEverything = "*";

// What a file says of a model beside the model: its name, its recipe, its plan, and what runs in bf16.
std::map<std::string, std::string> metadata_of(const std::string& model, const Recipe& recipe) {
  std::string bf16 = recipe.compile.dtype == at::kBFloat16 ? kEverything : "";
  for (const auto& [layer, dtype] : recipe.compile.node_precision)
    if (dtype == at::kBFloat16) bf16 += (bf16.empty() ? "" : " ") + layer;
  std::map<std::string, std::string> metadata{{kModel, model}, {kRecipe, recipe.name}};
  if (!recipe.plan.empty()) metadata[kPlan] = recipe.plan;
  if (!bf16.empty()) metadata[kBf16] = bf16;
  return metadata;
}

// An ONNX file is made of numbers, and the figures are to be of what it holds.
bool maps(const JobOptions& options) { return options.map && options.exports.onnx.empty(); }

Recipe loaded(const JobOptions& options) {
  Recipe recipe;
  if (options.map && !maps(options)) recipe.notes.emplace_back("--export: the file was read, not mapped");
  recipe.model = maps(options) ? pare::map_checkpoint(options.load) : pare::load_checkpoint(options.load);
  recipe.compile = {.threads = options.threads};
  const auto metadata = pare::SafeTensors::map(options.load).metadata();
  const auto read = [&](const char* key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string() : found->second;
  };
  if (const auto model = read(kModel); !model.empty() && model != options.model)
    pare::fail("zoo.110", options.load, "it was made from {}, not from {}", model, options.model);
  recipe.name = read(kRecipe).empty() ? "loaded" : read(kRecipe);
  recipe.plan = read(kPlan);
  if (const auto bf16 = read(kBf16); bf16 == kEverything) {
    recipe.compile.dtype = at::kBFloat16;
  } else {
    std::istringstream layers(bf16);
    for (std::string layer; layers >> layer;) recipe.compile.node_precision[layer] = at::kBFloat16;
  }
  return recipe;
}

}  // namespace

JobResult run(const JobOptions& options) {
  const auto steps = parse_recipe(options.recipe);
  torch::manual_seed(0);
  at::set_num_threads(options.threads);
  auto bundle = models::make(options.model);
  load_module(bundle, options);
  const auto samples = load_samples(bundle, options);
  JobResult result;
  result.samples = samples.count;
  const auto classes = classes_of(bundle, samples);
  if (!options.test.empty() && !samples.labels.defined())
    result.notes.emplace_back("--test: masks are no classes; outputs are compared, accuracy is not measured");
  check_labels(samples.labels, classes, options.test);
  check_labels(samples.calibration_labels, classes, options.calibration);
  check_labels(samples.validation_labels, classes, options.calibration);

  auto start = std::chrono::steady_clock::now();
  auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2), models::varying_sizes(bundle));
  result.capture_s = seconds_since(start);
  result.notes.insert(result.notes.end(), model.notes().begin(), model.notes().end());

  const torch::NoGradGuard no_grad;
  const Forward eager = [&](const Tensors& inputs) { return bundle.forward(inputs); };
  const auto reference = outputs(eager, samples.test);
  result.before.weight_bytes = module_bytes(*bundle.module);
  result.before.resident_bytes = result.before.weight_bytes;
  result.before.params = nonzero_parameters(model);
  start = std::chrono::steady_clock::now();
  auto recipe = options.load.empty() ? apply_recipe(steps, model, recipe_options(bundle, options, samples, classes))
                                     : loaded(options);
  if (options.load.empty()) recipe.name = options.recipe;
  if (!options.load.empty() && options.recipe != JobOptions{}.recipe)
    recipe.notes.push_back("--load: the recipe " + options.recipe + " was not run, the model is the file's");
  // ONNX holds biases as integers: the file and the figures are to be of the same model.
  if (!options.exports.onnx.empty()) recipe.model = pare::apply(pare::RoundBiases{}, recipe.model).model;
  result.optimize_s = seconds_since(start);

  result.recipe = recipe.name;
  result.plan = recipe.plan;
  result.evaluations = recipe.evaluations;
  result.pareto = recipe.pareto;
  result.drop = recipe.drop;
  result.shortfall = recipe.shortfall;
  result.notes.insert(result.notes.end(), recipe.notes.begin(), recipe.notes.end());
  // A mapped file's integers are to be run; what counts or writes weights wants numbers.
  const auto numbers = maps(options) ? pare::load_checkpoint(options.load) : recipe.model;
  result.after.params = nonzero_parameters(numbers);
  result.before.macs = pare::Cost(model).macs();
  result.after.macs = pare::Cost(recipe.model).macs();
  for (const auto& row : recipe.report.rows())
    if (row.pass == "Pruner" && row.decision == pare::Decision::Declined)
      result.frozen.push_back({row.layer, row.reason});

  start = std::chrono::steady_clock::now();
  auto compiled = pare::compile(recipe.model, recipe.compile);
  const auto example =
      options.test.empty() ? bundle.example(options.batch) : first_samples(samples.test, options.batch);
  static_cast<void>(compiled.run(example));  // plans are made for a shape on its first run
  result.compile_s = seconds_since(start);

  const Forward fast = [&](const Tensors& inputs) { return compiled.run(inputs); };
  const auto run_fast = [&] { static_cast<void>(fast(example)); };
  release_freed_memory();
  const auto latency = pare::measure_latency({[&] { static_cast<void>(eager(example)); }, run_fast}, options.seconds);
  result.before.latency_ms = latency[0].median_ms;
  result.before.latency_p99_ms = latency[0].p99_ms;
  result.after.latency_ms = latency[1].median_ms;
  result.after.latency_p99_ms = latency[1].p99_ms;
  result.after.weight_bytes = static_cast<std::int64_t>(compiled.weight_bytes());
  result.after.resident_bytes = static_cast<std::int64_t>(compiled.resident_bytes());

  const auto actual = outputs(fast, samples.test);
  result.sqnr_db = std::min(kEqualDb, pare::sqnr_db(reference, actual));
  result.flips = reference.argmax(1).ne(actual.argmax(1)).sum().item<std::int64_t>();
  if (samples.labels.defined()) {
    result.before.metric = data::top1_percent(reference, samples.labels);
    result.after.metric = data::top1_percent(actual, samples.labels);
  }
  result.layers = layer_rows(model, recipe, samples.calibration, compiled.report());
  const auto metadata = metadata_of(options.model, recipe);
  result.written = write_exports(options.exports, options.model, numbers, compiled, samples.test, metadata);
  if (!options.exports.onnx.empty() && metadata.contains(kBf16))
    result.written.push_back("the ONNX file computes in float32 what was judged in bf16");
  if (options.tuned_baseline) {
    const auto tuned = time_against_tuned_eager(bundle, example, run_fast, options.seconds);
    result.before.tuned_latency_ms = tuned[0].median_ms;
    result.after.tuned_latency_ms = tuned[1].median_ms;
  }
  if (options.alone) result.after.alone_ms = pare::measure_latency({run_fast}, options.seconds)[0].median_ms;
  if (options.gain) result.gain = measure_gain(model, recipe.model, recipe.compile, example, options.seconds);
  return result;
}

}  // namespace zoo
