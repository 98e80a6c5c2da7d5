// Weights of 4 bits in groups beside LibTorch's float32, bf16 and int4: one linear layer, and a small Llama.
//
//   build/benchmarks/weight_only_benchmark --inputs 4096 --outputs 11008 --batch 1
//   build/benchmarks/weight_only_benchmark --llama --width 4096 --hidden 11008 --layers 1
//
// Medians in milliseconds of runs by turns, each contestant with weights of its own; bytes are those of the weights.
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "examples/models/llama.hpp"
#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/numerics/weight_observer.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"

namespace {

struct Settings {
  std::int64_t inputs = 4096, outputs = 11008, batch = 1, width = 4096, hidden = 11008, layers = 1, vocabulary = 32000;
  int threads = 2, rounds = 15;
  bool llama = false;
};

struct Contestant {
  std::string name;
  std::size_t bytes;
  std::function<torch::Tensor()> run;
  std::vector<double> ms = {};
};

void print(std::vector<Contestant>& contestants, int rounds) {
  const auto reference = contestants.front().run().to(torch::kFloat);
  for (int round = 0; round <= rounds; ++round)
    for (auto& one : contestants) {
      const auto start = std::chrono::steady_clock::now();
      static_cast<void>(one.run());
      const auto end = std::chrono::steady_clock::now();
      if (round > 0) one.ms.push_back(std::chrono::duration<double, std::milli>(end - start).count());
    }
  std::printf("| weights | MiB | ms | times float32 | SQNR dB from float32 |\n|---|---|---|---|---|\n");
  double first = 0;
  for (auto& one : contestants) {
    std::ranges::sort(one.ms);
    const auto median = one.ms[one.ms.size() / 2];
    if (first == 0) first = median;
    const auto sqnr = &one == &contestants.front() ? 0.0 : pare::sqnr_db(reference, one.run().to(torch::kFloat));
    std::printf("| %s | %.1f | %.3f | %.2f | %.1f |\n", one.name.c_str(),
                static_cast<double>(one.bytes) / (1024.0 * 1024.0), median, first / median, sqnr);
  }
}

using WeightOnly = pare::Quantizer<pare::WeightMinMax>;

Contestant compiled(const std::string& name, const pare::Model& model, const torch::Tensor& x,
                    const pare::CompileOptions& options) {
  auto ready = pare::compile(model, options);
  return {name, ready.weight_bytes(), [ready, x] { return ready(x); }};
}

void add_compiled(std::vector<Contestant>& contestants, const pare::Model& model, const torch::Tensor& x, int threads) {
  const pare::CompileOptions options{.threads = threads, .adapt_threads = false};
  contestants.push_back(compiled("pare float32", model, x, options));
  for (const std::int64_t group : {32, 64, 128}) {
    const WeightOnly pass{.weights = {4}, .granularity = pare::PerGroup{group}, .weight_only = true};
    contestants.push_back(
        compiled("pare int4 in groups of " + std::to_string(group), pare::apply(pass, model).model, x, options));
  }
  const WeightOnly affine{
      .weights = {4}, .granularity = pare::PerGroup{128}, .symmetric_weights = false, .weight_only = true};
  contestants.push_back(
      compiled("pare int4 in groups of 128, zero points", pare::apply(affine, model).model, x, options));
  contestants.push_back(compiled("pare int8", pare::apply(WeightOnly{.weight_only = true}, model).model, x, options));
}

// LibTorch's own: integers of 0 to 15, a scale and the number that 8 stands for, for each group.
Contestant libtorch_int4(const torch::Tensor& weight, const torch::Tensor& x, std::int64_t group) {
  const auto groups = weight.reshape({weight.size(0), -1, group});
  const auto scale = groups.abs().amax(-1, true).clamp_min(1e-8) / 7;
  const auto integers = (torch::round(groups / scale) + 8).clamp(0, 15).to(torch::kInt).reshape(weight.sizes());
  const auto packed = at::_convert_weight_to_int4pack_for_cpu(integers, 1);
  const auto scales =
      torch::stack({scale.squeeze(-1), torch::zeros_like(scale.squeeze(-1))}, -1).transpose(0, 1).contiguous();
  return {"LibTorch int4 in groups of " + std::to_string(group), packed.nbytes() + scales.nbytes(),
          [=] { return at::_weight_int4pack_mm_for_cpu(x, packed, group, scales); }};
}

void layer(const Settings& settings) {
  torch::nn::Linear net(torch::nn::LinearOptions(settings.inputs, settings.outputs).bias(false));
  const auto x = torch::randn({settings.batch, settings.inputs});
  const auto weight = net->weight.detach();
  const auto halved = weight.to(torch::kBFloat16), halved_x = x.to(torch::kBFloat16);
  std::vector<Contestant> contestants{
      {"LibTorch float32", weight.nbytes(), [=] { return torch::linear(x, weight); }},
      {"LibTorch bf16", halved.nbytes(), [=] { return torch::linear(halved_x, halved); }}};
  for (const std::int64_t group : {32, 128}) contestants.push_back(libtorch_int4(weight, x, group));
  add_compiled(contestants, pare::capture(*net, torch::randn({2, settings.inputs})), x, settings.threads);
  std::printf("%ld x %ld, batch %ld, %d threads\n", static_cast<long>(settings.inputs),
              static_cast<long>(settings.outputs), static_cast<long>(settings.batch), settings.threads);
  print(contestants, settings.rounds);
}

void llama(const Settings& settings) {
  const models::LlamaOptions shape{.vocabulary = settings.vocabulary,
                                   .positions = 512,
                                   .layers = settings.layers,
                                   .width = settings.width,
                                   .heads = settings.width / 128,
                                   .kv_heads = settings.width / 128,
                                   .hidden = settings.hidden};
  models::LlamaImpl net(shape);
  net.eval();
  const auto ids = torch::randint(settings.vocabulary, {1, settings.batch}, torch::kLong);
  const auto model = pare::capture(net, torch::randint(settings.vocabulary, {1, 3}, torch::kLong),
                                   pare::CaptureOptions{.dims = {{"length", {{0, 1}}}}});
  models::LlamaImpl half(shape);
  half.eval();
  half.to(torch::kBFloat16);
  std::size_t bytes = 0;
  for (const auto& parameter : net.parameters()) bytes += parameter.nbytes();
  std::vector<Contestant> contestants{{"LibTorch float32", bytes, [&] { return net.forward(ids); }},
                                      {"LibTorch bf16", bytes / 2, [&] { return half.forward(ids); }}};
  add_compiled(contestants, model, ids, settings.threads);
  std::printf("Llama, %ld layers of width %ld, hidden %ld, %ld words; %ld token(s), %d threads\n",
              static_cast<long>(settings.layers), static_cast<long>(settings.width), static_cast<long>(settings.hidden),
              static_cast<long>(settings.vocabulary), static_cast<long>(settings.batch), settings.threads);
  print(contestants, settings.rounds);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("Weight-only quantization beside LibTorch");
  app.add_option("--inputs", settings.inputs, "Features of the layer");
  app.add_option("--outputs", settings.outputs, "Outputs of the layer");
  app.add_option("--batch", settings.batch, "Inputs, or tokens of the Llama")->check(CLI::PositiveNumber);
  app.add_option("--width", settings.width, "Of the Llama, a multiple of 128");
  app.add_option("--hidden", settings.hidden, "Of the Llama's feed-forward network");
  app.add_option("--layers", settings.layers, "Of the Llama");
  app.add_option("--vocabulary", settings.vocabulary, "Of the Llama");
  app.add_option("--threads", settings.threads, "For all contestants")->check(CLI::PositiveNumber);
  app.add_option("--rounds", settings.rounds, "Runs of each")->check(CLI::PositiveNumber);
  app.add_flag("--llama", settings.llama, "A Llama instead of a layer");
  CLI11_PARSE(app, argc, argv);
  torch::manual_seed(0);
  torch::set_num_threads(settings.threads);
  const torch::NoGradGuard no_grad;
  settings.llama ? llama(settings) : layer(settings);
}
