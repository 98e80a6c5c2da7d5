// Compiled models against the interpreter, on the models of the zoo with random weights.
#include <torch/torch.h>

#include <thread>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"

namespace {

struct Subject {
  models::Bundle bundle;
  pare::Model model;
};

Subject capture(const std::string& name) {
  torch::manual_seed(2);
  auto bundle = models::make(name);
  models::settle(bundle);
  bundle.module->eval();
  auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  return {std::move(bundle), std::move(model)};
}

}  // namespace

TEST_CASE("float32 compiled models compute what the interpreter computes, at any batch", "[execute]") {
  const torch::NoGradGuard no_grad;
  for (const auto* name : {"mlp", "lenet", "resnet20", "mobilenetv2", "squeezenet", "resnet8", "unet"}) {
    DYNAMIC_SECTION(name) {
      const auto [bundle, model] = capture(name);
      const auto compiled = pare::compile(model, {});
      for (const int64_t batch : {1, 3}) {
        const auto inputs = bundle.example(batch);
        const auto expected = model.run(inputs);
        const auto actual = compiled.run(inputs);
        REQUIRE(actual.size() == expected.size());
        for (std::size_t i = 0; i < actual.size(); ++i) CHECK(pare::sqnr_db(expected[i], actual[i]) > 80.0);
      }
    }
  }
}

TEST_CASE("the packed int8 model is the simulation, in a quarter of the bytes", "[execute]") {
  const torch::NoGradGuard no_grad;
  for (const auto* name : {"resnet20", "squeezenet", "resnet8"}) {
    DYNAMIC_SECTION(name) {
      const auto [bundle, model] = capture(name);
      std::vector<pare::Batch> batches{bundle.example(8), bundle.example(8)};
      const auto int8 = pare::apply(pare::Quantizer{}, model, {.calibration = batches});
      const auto packed = pare::compile(int8.model, {});
      const auto inputs = bundle.example(4);
      const auto simulated = int8.model.run(inputs).at(0);
      const auto actual = packed.run(inputs).at(0);
      CHECK(pare::sqnr_db(simulated, actual) > 35.0);
      CHECK(static_cast<double>(packed.weight_bytes()) <
            0.3 * static_cast<double>(pare::compile(model, {}).weight_bytes()));
    }
  }
}

TEST_CASE("threads share a compiled model", "[execute]") {
  const torch::NoGradGuard no_grad;
  const auto [bundle, model] = capture("resnet20");
  pare::CompileOptions options;
  options.threads = 1;
  const auto compiled = pare::compile(model, options);
  const auto inputs = bundle.example(2);
  const auto expected = compiled.run(inputs).at(0);
  std::vector<int> equal(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < equal.size(); ++i)
    threads.emplace_back([&, i] {
      bool same = true;
      for (int run = 0; run < 5; ++run) same = same && torch::equal(compiled.run(inputs).at(0), expected);
      equal[i] = same ? 1 : 0;
    });
  for (auto& thread : threads) thread.join();
  CHECK(equal == std::vector<int>(4, 1));
}
