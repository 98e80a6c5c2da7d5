// What sweeps of sensitivity cost, and how well the Fisher method ranks layers: int4 against int8, on real data.
//   PARE_DATA=DIR sensitivity_benchmark [--weights-only] [--slope] [--draws N] [--json FILE] [MODEL...]
// With --weights-only weights are rounded to nearest by the largest of each channel and activations stay float: what
// benchmarks/peers/sensitivity.py does in plain PyTorch.
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "examples/data/dataset.hpp"
#include "examples/models/captured.hpp"
#include "examples/models/registry.hpp"
#include "pare/analysis/sensitivity.hpp"
#include "pare/capture/capture.hpp"
#include "pare/numerics/min_max.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"

namespace {

struct Source {
  std::string weights, samples;
  std::int64_t count;
};

const std::map<std::string, Source>& sources() {
  static const std::map<std::string, Source> table{
      {"resnet20", {"cifar10/resnet20.safetensors", "cifar10/train_lossless_3805.bin", 256}},
      {"resnet56", {"cifar10/resnet56.safetensors", "cifar10/train_lossless_3805.bin", 256}},
      {"efficientnet_lite0", {"efficientnet_lite0/efficientnet_lite0_fp16.safetensors", "imagenet_sample", 64}},
      {"minilm_sst2", {"minilm_l6_sst2/minilm_l6_sst2_fp16.safetensors", "sst2/train.tsv", 128}}};
  return table;
}

// The samples that examples/zoo calibrates on: evenly spread over a folder, the first of a file, sentences one by one.
std::vector<pare::Batch> samples(const models::Bundle& bundle, const std::string& path, std::int64_t count) {
  const bool sentences = bundle.input.kind == data::InputFormat::Kind::kTokens;
  data::LoadOptions first;
  if (!path.ends_with("imagenet_sample")) first.limit = count;
  auto set = data::load(path, bundle.input, first);
  if (set.size() > count) {
    const auto chosen = torch::arange(count) * (set.size() / count);
    for (auto& input : set.inputs) input = input.index_select(0, chosen);
    set.labels = set.labels.index_select(0, chosen);
  }
  auto batches = set.batches(sentences ? 1 : 16);
  if (sentences)
    for (auto& batch : batches) {
      const auto length = batch.at(1).sum().item<std::int64_t>();
      for (auto& input : batch) input = input.narrow(1, 0, length);
    }
  return batches;
}

pare::Model quantized(const pare::Model& model, const std::vector<pare::Batch>& batches, int bits, bool weights_only) {
  pare::ContextOptions context;
  context.calibration = batches;
  if (!weights_only) return pare::apply(pare::Quantizer{.weights = {bits}}, model, std::move(context)).model;
  return pare::apply(pare::Quantizer{.weight_observer = pare::WeightMinMax{},
                                     .weights = {bits},
                                     .weight_only = true,
                                     .rounding = pare::Rounding::Nearest,
                                     .correct_bias = false,
                                     .smooth = false},
                     model, std::move(context))
      .model;
}

double seconds(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

nlohmann::json sweep(const std::string& name, const std::string& root, bool weights_only, int draws, bool slope) {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  const auto& source = sources().at(name);
  auto bundle = models::make(name);
  pare::load_weights(*bundle.module, pare::SafeTensors(root + "/" + source.weights), bundle.load);
  bundle.module->eval();
  const auto model =
      pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2), models::varying_sizes(bundle));
  const auto batches = samples(bundle, root + "/" + source.samples, source.count);
  pare::BatchOutputs answers;
  const auto float_s = seconds([&] {
    for (const auto& batch : batches) answers.push_back(model.run(batch));
  });
  const auto int8 = quantized(model, batches, 8, weights_only), int4 = quantized(model, batches, 4, weights_only);
  pare::SensitivityOptions options;
  options.batches = batches;
  options.loss = pare::divergence_from(answers);
  std::optional<pare::Sensitivity> exact, fisher;
  const auto exact_s = seconds([&] { exact.emplace(int8, std::vector<pare::Variant>{{"int4", int4}}, options); });
  // What anyone would do without a prefix: the model over all batches again for each layer.
  std::vector<double> plain;
  for (int i = 0; i < 3; ++i)
    plain.push_back(seconds([&] {
      pare::BatchOutputs outputs;
      for (const auto& batch : batches) outputs.push_back(int8.run(batch));
      static_cast<void>(options.loss(outputs));
    }));
  std::ranges::sort(plain);
  options.method = pare::SensitivityMethod::Fisher;
  options.draws = draws;
  if (slope) options.answers = answers;
  const auto fisher_s = seconds([&] { fisher.emplace(int8, std::vector<pare::Variant>{{"int4", int4}}, options); });
  std::vector<double> a, b;
  auto layers = nlohmann::json::array();
  for (std::size_t i = 0; i < exact->layers().size(); ++i) {
    const auto& layer = exact->layers()[i];
    if (layer.damage[0] == 0 && fisher->layers()[i].damage[0] == 0) continue;  // the same in both models
    a.push_back(layer.damage[0]);
    b.push_back(fisher->layers()[i].damage[0]);
    layers.push_back({{"name", layer.name}, {"exact", a.back()}, {"fisher", b.back()}});
  }
  const auto spearman = pare::rank_correlation(a, b);
  const auto all = plain[1] * static_cast<double>(a.size());
  fmt::print("{:<20} {:>6} {:>8.2f} {:>10.2f} {:>10.2f} {:>8.1f} {:>12.1f} {:>8.1f} {:>9.3f}\n", name, a.size(),
             plain[1], exact_s / all, exact->work() / static_cast<double>(a.size()), exact_s, fisher_s / plain[1],
             fisher_s, spearman);
  return {{"model", name},
          {"layers", layers},
          {"spearman", spearman},
          {"float_s", float_s},
          {"plain_s", plain[1]},
          {"exact_s", exact_s},
          {"exact_evaluations", exact->evaluations()},
          {"exact_work", exact->work()},
          {"fisher_s", fisher_s},
          {"fisher_evaluations", fisher->evaluations()}};
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> names{"resnet20", "resnet56", "efficientnet_lite0", "minilm_sst2"};
  std::string path;
  bool weights_only = false, slope = false;
  int draws = 4;
  CLI::App app{"Sweeps the sensitivity of every layer, exactly and by Fisher information."};
  app.add_option("models", names, "resnet20, resnet56, efficientnet_lite0, minilm_sst2");
  app.add_flag("--weights-only", weights_only, "Nearest rounding of weights, float activations");
  app.add_flag("--slope", slope, "Fisher with the slope of the divergence from the float model's answers");
  app.add_option("--draws", draws, "Random signs that the Fisher method draws for each sample")
      ->check(CLI::PositiveNumber);
  app.add_option("--json", path, "Where to write the figures as JSON");
  CLI11_PARSE(app, argc, argv);
  const auto* given = std::getenv("PARE_DATA");
  if (given == nullptr) {
    fmt::print(stderr, "sensitivity_benchmark: set PARE_DATA\n");
    return 2;
  }
  at::set_num_threads(2);
  fmt::print("{:<20} {:>6} {:>8} {:>10} {:>10} {:>8} {:>12} {:>8} {:>9}\n", "network", "layers", "run, s",
             "of layers x", "by MACs", "s", "Fisher, runs", "s", "Spearman");
  auto all = nlohmann::json::array();
  for (const auto& name : names) all.push_back(sweep(name, given, weights_only, draws, slope));
  if (!path.empty()) std::ofstream(path) << all.dump(1) << '\n';
  return 0;
}
