// What a quantization-aware training is asked for that its Model cannot give.
#include <torch/torch.h>

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
