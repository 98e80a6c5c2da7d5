// Eager against replayed against compiled, one and two threads. Medians of interleaved repetitions:
//   execution_benchmark --benchmark_enable_random_interleaving=true --benchmark_repetitions=9
//                       --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include <map>
#include <memory>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"

namespace {

enum class Way { Eager, Replay, Float, Bf16, Int8 };
constexpr std::array kWays{Way::Eager, Way::Replay, Way::Float, Way::Bf16, Way::Int8};
constexpr std::array<const char*, 5> kNames{"eager", "replay", "float", "bf16", "int8"};

struct Subject {
  models::Bundle bundle;
  pare::Model model;
  std::unique_ptr<pare::Model> simulated;
};

// Captured once for all benchmarks of a network; quantized when the first one asks.
Subject& subject(const std::string& name) {
  static std::map<std::string, std::unique_ptr<Subject>> all;
  auto& one = all[name];
  if (!one) {
    torch::manual_seed(0);
    auto bundle = models::make(name);
    models::settle(bundle);
    bundle.module->eval();
    auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
    one = std::make_unique<Subject>(Subject{std::move(bundle), std::move(model), nullptr});
  }
  return *one;
}

const pare::Model& simulated(Subject& of) {
  if (!of.simulated) {
    std::vector<pare::Batch> calibration{of.bundle.example(4)};
    // Speed does not depend on how scales and roundings were found.
    const pare::Quantizer quick{.rounding = pare::Rounding::Nearest, .correct_bias = false};
    of.simulated = std::make_unique<pare::Model>(pare::apply(quick, of.model, {.calibration = calibration}).model);
  }
  return *of.simulated;
}

void run(benchmark::State& state, const std::string& name, Way way, std::int64_t batch, int threads) {
  const torch::NoGradGuard no_grad;
  at::set_num_threads(threads);
  auto& of = subject(name);
  const auto inputs = of.bundle.example(batch);
  std::function<std::vector<torch::Tensor>()> call;
  if (way == Way::Eager) {
    call = [&] { return of.bundle.forward(inputs); };
  } else if (way == Way::Replay) {
    call = [&] { return of.model.run(inputs); };
  } else {
    const pare::CompileOptions options{.dtype = way == Way::Bf16 ? torch::kBFloat16 : torch::kFloat,
                                       .threads = threads};
    const auto compiled = pare::compile(way == Way::Int8 ? simulated(of) : of.model, options);
    call = [compiled, &inputs] { return compiled.run(inputs); };
  }
  benchmark::DoNotOptimize(call());
  for (auto _ : state) benchmark::DoNotOptimize(call());
}

}  // namespace

int main(int argc, char** argv) {
  for (const std::string name : {"resnet20", "mobilenetv2", "resnet50", "minilm_sst2"})
    for (const std::int64_t batch : {1, 8})
      for (const int threads : {1, 2})
        for (std::size_t way = 0; way < kWays.size(); ++way)
          benchmark::RegisterBenchmark(
              (name + "/" + kNames[way] + "/batch:" + std::to_string(batch) + "/threads:" + std::to_string(threads))
                  .c_str(),
              [=](auto& state) { run(state, name, kWays[way], batch, threads); })
              ->Unit(benchmark::kMillisecond)
              ->UseRealTime();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
