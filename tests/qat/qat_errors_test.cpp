// What a quantization-aware training is asked for that its Model cannot give.
#include <torch/torch.h>

#include <limits>
#include <vector>

#include "pare/capture/capture.hpp"
#include "pare/quantize/quantization_aware_training.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

struct QatErrorHeads : torch::nn::Module {
  QatErrorHeads() {
    fc = register_module("fc", torch::nn::Linear(8, 8));
    head = register_module("head", torch::nn::Linear(8, 4));
  }
  std::vector<torch::Tensor> forward(const torch::Tensor& x) {
    const auto y = torch::relu(fc(x));
    return {y, head(y)};
  }
  torch::nn::Linear fc{nullptr}, head{nullptr};
};

}  // namespace

TEST_CASE("a training picks no result out of several", "[qat]") {
  torch::manual_seed(1);
  QatErrorHeads net;
  const auto x = torch::randn({16, 8});
  pare::QuantizationAwareTraining qat{pare::capture(net, x), pare::Quantizer{}, pare::Batches{x}};
  CHECK(raises("pare.run.107", [&] { static_cast<void>(qat(x)); }));
  CHECK(qat.run({x}).size() == 2);
}

TEST_CASE("a Model captured for evaluation is not trained", "[qat]") {
  torch::manual_seed(2);
  QatErrorHeads net;
  const auto x = torch::randn({16, 8});
  const auto model = pare::capture(net, x, {.training = false});
  pare::QuantizationAwareTraining qat{model, pare::Quantizer{}, pare::Batches{x}};
  CHECK(raises("pare.graph.105", [&] { qat.train(); }));
  CHECK_FALSE(qat.is_training());
  CHECK(qat.run({x}).size() == 2);
}

TEST_CASE("NaN in inputs or weights ends a training step instead of being rounded away", "[qat]") {
  torch::manual_seed(3);
  QatErrorHeads net;
  const auto x = torch::randn({16, 8});
  const auto model = pare::capture(net, x);
  const auto broken = x.clone();
  broken[3][2] = std::numeric_limits<float>::quiet_NaN();
  using enum pare::RangeTraining;
  for (const auto ranges : {LearnedStep, LearnedStepAndOffset, LearnedClip, Observed})
    for (const bool training : {true, false}) {
      pare::QuantizationAwareTraining qat{model, pare::Quantizer{}, pare::Batches{x}, {.activations = ranges}};
      qat.train(training);
      CHECK(raises("pare.quantize.111", [&] { static_cast<void>(qat.run({broken})); }));
      CHECK(qat.run({x * 1e30F}).size() == 2);  // whose sums overflow
      const torch::NoGradGuard no_grad;
      for (const auto& [name, tensor] : qat.named_parameters())
        if (name == "fc.weight") tensor.select(0, 0).fill_(std::numeric_limits<float>::infinity());
      CHECK(raises("pare.quantize.111", [&] { static_cast<void>(qat.run({x})); }));
      CHECK(raises("pare.quantize.111", [&] { static_cast<void>(qat.convert()); }));
    }
}

TEST_CASE("averages follow every optimizer, up to its last step", "[qat]") {
  torch::manual_seed(4);
  QatErrorHeads net;
  const auto x = torch::randn({16, 8});
  const auto model = pare::capture(net, x);
  const pare::QatOptions options{.average_decay = 0.5};
  const auto step = [&](pare::QuantizationAwareTraining& qat, torch::optim::Optimizer& optimizer) {
    optimizer.zero_grad();
    qat.run({x})[1].square().sum().backward();
    optimizer.step();
  };
  pare::QuantizationAwareTraining qat{model, pare::Quantizer{}, pare::Batches{x}, options};
  torch::optim::SGD optimizer(qat.parameters(), 0.01);  // writes past the tensors' versions
  qat.train();
  const auto before = qat.state();
  step(qat, optimizer);
  const auto after = qat.state();
  const auto moved = after.at("fc.weight") - before.at("fc.weight");
  REQUIRE(moved.abs().max().item<float>() > 0);
  CHECK(torch::allclose(after.at("average.fc.weight"), before.at("fc.weight") + moved / 2));
  CHECK(torch::equal(qat.state().at("average.fc.weight"), after.at("average.fc.weight")));  // once a step
  // One that was saved behind a step goes on as the other.
  pare::QuantizationAwareTraining resumed{model, pare::Quantizer{}, pare::Batches{x}, options};
  resumed.load_state(after);
  resumed.train();
  torch::optim::SGD other(resumed.parameters(), 0.01);
  step(qat, optimizer);
  step(resumed, other);
  const auto a = qat.state(), b = resumed.state();
  for (const auto& [name, tensor] : a) {
    INFO(name);
    CHECK(torch::equal(tensor, b.at(name)));
  }
}

TEST_CASE("statistics stay when the batches to take them from fail", "[qat]") {
  torch::manual_seed(5);
  torch::nn::Sequential net(torch::nn::Conv2d(3, 4, 1), torch::nn::BatchNorm2d(4), torch::nn::ReLU());
  const auto x = torch::randn({4, 3, 5, 5});
  pare::QuantizationAwareTraining qat{pare::capture(net, x), pare::Quantizer{}, pare::Batches{x}};
  const auto before = qat.state();
  CHECK(raises("pare.run.103", [&] { qat.reestimate_batch_norm({x + 3, torch::zeros({4, 2, 5, 5})}); }));
  for (const auto& [name, tensor] : qat.state()) {
    INFO(name);
    CHECK(torch::equal(tensor, before.at(name)));
  }
  qat.reestimate_batch_norm(pare::Batches{x + 3});
  CHECK_FALSE(torch::equal(qat.state().at("1.running_mean"), before.at("1.running_mean")));
}
