// With exact scales kernels and simulation give the same numbers, not nearly the same.
#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/graph/target.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantization_aware_training.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;

// Zero points other than 0, a residual sum, an activation that is no clamp, a bias too large for its weights.
struct ZigzagImpl : nn::Module {
  ZigzagImpl() {
    register_module("stem", stem);
    register_module("narrow", narrow);
    register_module("depthwise", depthwise);
    register_module("wide", wide);
    register_module("fc", fc);
    const torch::NoGradGuard no_grad;
    narrow->weight[1].mul_(1e-6);
    narrow->bias[1] = 2.0;
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::hardswish(stem(x));
    y = narrow(y) + wide(torch::relu6(depthwise(narrow(y))));
    return fc(torch::relu(y).mean({2, 3}));
  }
  nn::Conv2d stem{nn::Conv2dOptions(3, 24, 3).padding(1)}, narrow{nn::Conv2dOptions(24, 8, 1)},
      depthwise{nn::Conv2dOptions(8, 8, 3).padding(1).groups(8)}, wide{nn::Conv2dOptions(8, 8, 1)};
  nn::Linear fc{8, 10};
};
TORCH_MODULE(Zigzag);

pare::Model captured() {
  torch::manual_seed(8);
  Zigzag net;
  return pare::capture(net, torch::randn({2, 3, 16, 16}));
}

}  // namespace

TEST_CASE("with exact scales kernels give the simulation's numbers", "[quantize]") {
  const torch::NoGradGuard no_grad;
  const auto model = captured();
  const auto x = torch::randn({32, 3, 16, 16});
  for (const auto* target : {&pare::onednn_target(), &pare::onnxruntime_target()}) {
    INFO(target->name);
    const auto quantize = [&](bool exact) {
      return pare::apply(pare::Quantizer{.exact_scales = exact, .target = target}, model,
                         {.calibration = pare::Batches{torch::randn({32, 3, 16, 16})}})
          .model;
    };
    const auto plain = quantize(false), exact = quantize(true);
    for (const int threads : {1, 2})
      CHECK(torch::equal(exact(x), pare::compile(exact, {.threads = threads, .tune = false})(x)));
    // What it costs: a scale is up to 1.8 times as large.
    CHECK(pare::sqnr_db(model(x), exact(x)) > pare::sqnr_db(model(x), plain(x)) - 6);
    CHECK(pare::sqnr_db(model(x), exact(x)) > 20);
  }
}

TEST_CASE("with exact scales inputs of a linear layer are rounded alike, too", "[quantize]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  nn::Linear net(1000, 4);
  const auto x = torch::randn({1000, 1000});
  const auto int8 = pare::apply(pare::Quantizer{.exact_scales = true}, pare::capture(net, x.narrow(0, 0, 4)),
                                {.calibration = pare::Batches{x.narrow(0, 0, 64)}})
                        .model;
  CHECK(torch::equal(pare::compile(int8)(x), int8(x)));
}

TEST_CASE("with exact scales the bias of a layer that is called twice is on its grid", "[quantize]") {
  const torch::NoGradGuard no_grad;
  struct Twice : nn::Module {
    Twice() { layer = register_module("layer", nn::Linear(6, 6)); }
    torch::Tensor forward(const torch::Tensor& x) { return layer(x).add(layer(x.flip(1))); }
    nn::Linear layer{nullptr};
  } net;
  torch::manual_seed(2);
  const auto x = torch::randn({32, 6});
  const auto int8 =
      pare::apply(pare::Quantizer{.exact_scales = true}, pare::capture(net, x), {.calibration = pare::Batches{x}})
          .model;
  const auto before = net.layer->bias, after = int8.weight("layer.bias");
  CHECK_FALSE(torch::equal(before, after));
  CHECK(torch::allclose(before, after, 0, 1e-3));
}

TEST_CASE("exact scales are refused where something moves scales", "[quantize]") {
  CHECK(raises("pare.quantize.103",
               [] { pare::Quantizer{.exact_scales = true, .rounding = pare::Rounding::Learned}.validate(); }));
  const auto model = captured();
  CHECK(raises("pare.quantize.110", [&] {
    pare::QuantizationAwareTraining(model, pare::Quantizer{.exact_scales = true},
                                    pare::Batches{torch::randn({4, 3, 16, 16})});
  }));
}
