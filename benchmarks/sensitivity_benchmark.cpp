// What sweeps of sensitivity cost, and how well the Fisher method ranks layers: int4 against int8, on real data.
//   PARE_DATA=DIR sensitivity_benchmark [--weights-only] [--slope] [--pairs] [--draws N] [--json FILE] [MODEL...]
// With --weights-only weights are rounded to nearest by the largest of each channel and activations stay float: what
// benchmarks/peers/sensitivity.py does in plain PyTorch. With --pairs half of the samples are left out of all that, and
// random sets of layers are put to 4 bits together: does what pairs cost together tell more than the sum, on either
// half?
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "examples/data/dataset.hpp"
#include "examples/models/captured.hpp"
#include "examples/models/registry.hpp"
#include "pare/analysis/layer_exchange.hpp"
#include "pare/analysis/prefix_replay.hpp"
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

/// What the command line asks for.
struct Wanted {
  bool weights_only = false, slope = false, pairs = false;
  int draws = 4;
};

pare::BatchOutputs outputs(const pare::Model& model, const std::vector<pare::Batch>& batches) {
  pare::BatchOutputs all;
  for (const auto& batch : batches) all.push_back(model.run(batch));
  return all;
}

/// Samples, and what layers taken to 4 bits together lose on them.
class Together {
 public:
  Together(const pare::Model& model, const pare::Model& int8, const pare::Model& int4,
           const std::vector<pare::Batch>& batches)
      : taken_(pare::LayerExchange(int8).taken_from({"int4", int4})),
        replay_(int8, batches),
        loss_(pare::divergence_from(outputs(model, batches))),
        base_(loss_(replay_.outputs())) {}

  double loss(const std::vector<std::size_t>& layers) const {
    pare::Replacements all;
    for (const auto i : layers) all.insert(taken_[i].begin(), taken_[i].end());
    return loss_(replay_.outputs(all)) - base_;
  }

 private:
  std::vector<pare::Replacements> taken_;
  pare::PrefixReplay replay_;
  pare::OutputLoss loss_;
  double base_;
};

nlohmann::json compare_pairs(const pare::Sensitivity& fisher, const Together& same, const Together& others) {
  constexpr int kSets = 24;
  std::mt19937 generator(1);
  std::vector<double> sums, with_pairs, here, elsewhere;
  for (int set = 0; set < kSets; ++set) {
    std::vector<std::size_t> layers;
    const double share = 0.2 + 0.6 * set / (kSets - 1);
    for (std::size_t i = 0; i < fisher.layers().size(); ++i)
      if (std::uniform_real_distribution<>()(generator) < share) layers.push_back(i);
    double sum = 0, pairs = 0;
    for (const auto i : layers) {
      sum += fisher.layers()[i].damage[0];
      for (const auto j : layers) pairs += j < i ? fisher.interaction(i, 0, j, 0) : 0.0;
    }
    sums.push_back(sum);
    with_pairs.push_back(sum + pairs);
    here.push_back(same.loss(layers));
    elsewhere.push_back(others.loss(layers));
  }
  const nlohmann::json found{
      {"sum", {pare::rank_correlation(sums, here), pare::rank_correlation(sums, elsewhere)}},
      {"pairs", {pare::rank_correlation(with_pairs, here), pare::rank_correlation(with_pairs, elsewhere)}},
      {"halves", pare::rank_correlation(here, elsewhere)}};
  fmt::print(
      "  {} random sets at 4 bits, Spearman on these samples / on others: sum {:.3f} / {:.3f}, with pairs {:.3f} / "
      "{:.3f}; of the losses on both {:.3f}\n",
      kSets, found["sum"][0].get<double>(), found["sum"][1].get<double>(), found["pairs"][0].get<double>(),
      found["pairs"][1].get<double>(), found["halves"].get<double>());
  return found;
}

nlohmann::json sweep(const std::string& name, const std::string& root, const Wanted& wanted) {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  const auto& source = sources().at(name);
  auto bundle = models::make(name);
  pare::load_weights(*bundle.module, pare::SafeTensors(root + "/" + source.weights), bundle.load);
  bundle.module->eval();
  const auto model =
      pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2), models::varying_sizes(bundle));
  auto batches = samples(bundle, root + "/" + source.samples, source.count * (wanted.pairs ? 2 : 1));
  std::vector<pare::Batch> others;
  if (wanted.pairs) {
    std::vector<pare::Batch> every_second;
    for (std::size_t i = 0; i < batches.size(); ++i) (i % 2 == 0 ? every_second : others).push_back(batches[i]);
    batches = std::move(every_second);
  }
  pare::BatchOutputs answers;
  const auto float_s = seconds([&] { answers = outputs(model, batches); });
  const auto int8 = quantized(model, batches, 8, wanted.weights_only),
             int4 = quantized(model, batches, 4, wanted.weights_only);
  pare::SensitivityOptions options;
  options.batches = batches;
  options.loss = pare::divergence_from(answers);
  std::optional<pare::Sensitivity> exact, fisher;
  const auto exact_s = seconds([&] { exact.emplace(int8, std::vector<pare::Variant>{{"int4", int4}}, options); });
  // What anyone would do without a prefix: the model over all batches again for each layer.
  std::vector<double> plain;
  for (int i = 0; i < 3; ++i)
    plain.push_back(seconds([&] { static_cast<void>(options.loss(outputs(int8, batches))); }));
  std::ranges::sort(plain);
  options.method = pare::SensitivityMethod::Fisher;
  options.draws = wanted.draws;
  if (wanted.slope) options.answers = answers;
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
  nlohmann::json pairs;
  if (wanted.pairs) pairs = compare_pairs(*fisher, {model, int8, int4, batches}, {model, int8, int4, others});
  return {{"model", name},
          {"layers", layers},
          {"pairs", pairs},
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
  Wanted wanted;
  CLI::App app{"Sweeps the sensitivity of every layer, exactly and by Fisher information."};
  app.add_option("models", names, "resnet20, resnet56, efficientnet_lite0, minilm_sst2");
  app.add_flag("--weights-only", wanted.weights_only, "Nearest rounding of weights, float activations");
  app.add_flag("--slope", wanted.slope, "Fisher with the slope of the divergence from the float model's answers");
  app.add_flag("--pairs", wanted.pairs, "Whether what pairs of layers cost together tells more than the sum");
  app.add_option("--draws", wanted.draws, "Random signs that the Fisher method draws for each sample")
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
  for (const auto& name : names) all.push_back(sweep(name, given, wanted));
  if (!path.empty()) std::ofstream(path) << all.dump(1) << '\n';
  return 0;
}
