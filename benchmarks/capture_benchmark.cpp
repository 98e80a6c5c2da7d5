// Capture time, and replay against eager: the interpreter's overhead. Run with
// --benchmark_enable_random_interleaving=true
// --benchmark_repetitions=9 and compare medians.
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"

namespace {

void capture(benchmark::State& state, const std::string& name) {
  at::set_num_threads(2);
  auto bundle = models::make(name);
  const auto example = bundle.example(2);
  for (auto _ : state) benchmark::DoNotOptimize(pare::capture_forward(*bundle.module, bundle.forward, example));
}

void forward(benchmark::State& state, const std::string& name, bool replay) {
  at::set_num_threads(2);
  const torch::NoGradGuard no_grad;
  auto bundle = models::make(name);
  bundle.module->eval();
  const auto input = bundle.example(1);
  const auto model = pare::capture_forward(*bundle.module, bundle.forward, input);
  for (auto _ : state) benchmark::DoNotOptimize(replay ? model.run(input) : bundle.forward(input));
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto* name : {"resnet20", "resnet18", "resnet50", "mobilenetv2", "bert6x384"}) {
    const std::string model(name);
    benchmark::RegisterBenchmark(("capture/" + model).c_str(), [=](auto& state) { capture(state, model); })
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
    for (const bool replay : {false, true})
      benchmark::RegisterBenchmark(((replay ? "replay/" : "eager/") + model).c_str(),
                                   [=](auto& state) { forward(state, model, replay); })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
