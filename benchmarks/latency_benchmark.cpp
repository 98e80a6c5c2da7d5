// What plans take, predicted from timed layers, against measured: uniform int8, float32 and two mixed plans each.
//   latency_benchmark [--cache DIR] [--profile] [MODEL...]
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "examples/models/registry.hpp"
#include "pare/analysis/layer_exchange.hpp"
#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/plan/plan_latency.hpp"
#include "pare/quantize/sketch.hpp"

namespace {

constexpr pare::Bits kInteger{8}, kHalf{16}, kFloat{32};

pare::Plan with(pare::Plan plan, const std::function<pare::Bits(std::size_t, const pare::Plan::Layer&)>& bits) {
  for (std::size_t i = 0; i < plan.layers.size(); ++i) plan.layers[i].weights = bits(i, plan.layers[i]);
  return plan;
}

// Milliseconds of calls that little disturbed: the lower quartile over many turns.
std::vector<double> undisturbed(const std::vector<std::function<void()>>& runs, double seconds) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::vector<double>> times(runs.size());
  const auto start = Clock::now();
  do {
    for (std::size_t i = 0; i < runs.size(); ++i)
      for (int call = 0; call < 6; ++call) {
        const auto before = Clock::now();
        runs[i]();
        if (call > 0) times[i].push_back(std::chrono::duration<double, std::milli>(Clock::now() - before).count());
      }
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  std::vector<double> result;
  for (auto& all : times) {
    std::ranges::sort(all);
    result.push_back(all[all.size() / 4]);
  }
  return result;
}

struct Contestant {
  std::string name;
  pare::Plan plan;
};

std::vector<Contestant> plans(const pare::Plan& layers) {
  const auto count = layers.layers.size();
  return {{"int8", with(layers, [](auto, auto&) { return kInteger; })},
          {"float32", with(layers, [](auto, auto&) { return kFloat; })},
          // What is usually kept: the ends in float, the rest in integers.
          {"ends float32",
           with(layers, [&](auto i, auto&) { return i < (count + 7) / 8 || i + 1 == count ? kFloat : kInteger; })},
          // Every third layer: as many borders as there can be for that share.
          {"thirds float32", with(layers, [](auto i, auto&) { return i % 3 == 1 ? kFloat : kInteger; })}};
}

void compare(const std::string& name, const std::string& cache, bool half, bool profile) {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  auto bundle = models::make(name);
  models::settle(bundle);
  bundle.module->eval();
  const auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  const auto inputs = bundle.example(1), sample = bundle.example(2);
  const pare::LayerExchange exchange(model);
  pare::Plan layers;
  for (const auto& layer : exchange.layers()) layers.layers.push_back({layer.name, kInteger, layer.entries});
  pare::PlanLatencyOptions options;
  options.realize = [&](const pare::Plan& plan) { return pare::sketch(model, plan, sample); };
  options.inputs = inputs;
  options.cache = cache;
  std::vector<pare::Bits> precisions{kInteger, kFloat};
  if (half) precisions.push_back(kHalf);
  const auto start = std::chrono::steady_clock::now();
  pare::PlanLatency latency(layers, precisions, options);
  const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  auto contestants = plans(layers);
  if (half)
    contestants.push_back({"every other bf16", with(layers, [](auto i, auto&) { return i % 2 ? kHalf : kInteger; })});
  std::vector<pare::CompiledModel> compiled;
  std::vector<std::function<void()>> runs;
  for (const auto& one : contestants) {
    auto compile = latency.compile_options(one.plan);
    compile.adapt_threads = false;
    compiled.push_back(pare::compile(options.realize(one.plan), compile));
    runs.emplace_back([&inputs, run = compiled.back()] { static_cast<void>(run.run(inputs)); });
  }
  const auto measured = undisturbed(runs, 8.0);
  for (std::size_t i = 0; i < contestants.size(); ++i) {
    auto plan = contestants[i].plan;
    const auto predicted = latency.predict(plan);
    const auto real = measured[i];
    fmt::print("{:<20} {:<18} {:>9.3f} {:>9.3f} {:>+8.1f} % {:>8} guessed\n", name, contestants[i].name, predicted,
               real, 100 * (predicted / real - 1), latency.steps(plan).guessed());
  }
  fmt::print("{:<20} layers timed in {:.1f} s\n", name, seconds);
  std::fflush(stdout);
  if (!profile) return;
  auto table = latency.table();
  const auto limits = pare::machine_limits(table);
  fmt::print("{}: {:.0f} Gop/s float32, {:.0f} bf16, {:.0f} int8, {:.1f} GB/s\n{}", table.machine(),
             limits.float32_gops, limits.bf16_gops, limits.int8_gops, limits.gbytes,
             latency.steps(contestants[0].plan).text(limits));
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> names{"resnet20", "mobilenetv2", "efficientnet_lite0", "minilm_sst2", "resnet50"};
  std::string cache;
  bool half = false, profile = false;
  CLI::App app{"Predicts the latency of plans and measures it."};
  app.add_option("models", names, "Networks of examples/models, with random weights");
  app.add_option("--cache", cache, "Folder to keep times of layers in");
  app.add_flag("--bf16", half, "Also a plan of bf16 and int8 layers");
  app.add_flag("--profile", profile, "Also the layers of the int8 model with their roofline");
  CLI11_PARSE(app, argc, argv);
  fmt::print("{:<20} {:<18} {:>9} {:>9} {:>10}\n", "network", "plan", "predicted", "measured", "error");
  for (const auto& name : names) compare(name, cache, half, profile);
  return 0;
}
