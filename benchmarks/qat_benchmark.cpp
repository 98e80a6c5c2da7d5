// What quantization-aware training costs: steps of ResNet-20, batch 128, forward, backward and SGD. Run with
// --benchmark_enable_random_interleaving=true --benchmark_repetitions=5 and compare medians.
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include "examples/models/cifar_resnet.hpp"
#include "pare/capture/capture.hpp"
#include "pare/quantize/quantization_aware_training.hpp"
#include "pare/quantize/simulation.hpp"

namespace {

constexpr std::int64_t kBatch = 128;

/// Watches every call and changes none.
class Bystander : public pare::Interceptor {
 public:
  void call(const c10::OperatorHandle& op, torch::jit::Stack& stack) override { op.callBoxed(stack); }
};

template <class Forward>
void steps(benchmark::State& state, Forward&& forward, torch::optim::Optimizer& optimizer) {
  const auto images = torch::randn({kBatch, 3, 32, 32});
  const auto labels = torch::randint(0, 10, {kBatch});
  for (auto _ : state) {
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(forward(images), labels).backward();
    optimizer.step();
  }
}

void plain(benchmark::State& state, bool intercepted) {
  at::set_num_threads(2);
  models::CifarResNet net(20);
  torch::optim::SGD optimizer(net->parameters(), 1e-4);
  std::optional<pare::Interception> interception;
  if (intercepted) interception.emplace(std::make_shared<Bystander>());
  steps(
      state, [&](const torch::Tensor& x) { return net(x); }, optimizer);
}

void simulated(benchmark::State& state) {
  at::set_num_threads(2);
  models::CifarResNet net(20);
  torch::optim::SGD optimizer(net->parameters(), 1e-4);
  pare::Simulation simulation{net, torch::randn({8, 3, 32, 32}), pare::Quantizer{.weights = {4}}};
  net->train();
  auto scope = simulation.enter();
  steps(
      state, [&](const torch::Tensor& x) { return net(x); }, optimizer);
}

void captured(benchmark::State& state, pare::RangeTraining training) {
  at::set_num_threads(2);
  models::CifarResNet net(20);
  const auto example = torch::randn({8, 3, 32, 32});
  pare::QuantizationAwareTraining qat{pare::capture(net, example),
                                      pare::Quantizer{.weights = {4}},
                                      pare::Batches{example},
                                      {.weights = training, .activations = training}};
  torch::optim::SGD optimizer(qat.parameters(), 1e-4);
  qat.train();
  steps(state, qat, optimizer);
}

void each(const char* name, void (*run)(benchmark::State&)) {
  benchmark::RegisterBenchmark(name, run)->Unit(benchmark::kMillisecond)->UseRealTime();
}

}  // namespace

int main(int argc, char** argv) {
  each("float", [](benchmark::State& state) { plain(state, false); });
  each("float, intercepted", [](benchmark::State& state) { plain(state, true); });
  each("simulation, observed ranges", simulated);
  each("captured, observed ranges", [](auto& state) { captured(state, pare::RangeTraining::Observed); });
  each("captured, learned steps", [](auto& state) { captured(state, pare::RangeTraining::LearnedStep); });
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
