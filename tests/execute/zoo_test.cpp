// Compiled models against the interpreter, on the models of the zoo with random weights.
#include <torch/torch.h>

#include <set>
#include <thread>

#include "examples/models/captured.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/execute/packed_steps.hpp"
#include "tests/support/catch.hpp"

namespace {

constexpr double kFloatSqnr = 80.0;  ///< dB: other kernels sum in another order
constexpr double kBf16Sqnr = 25.0;   ///< dB: eight bits of mantissa through a whole network

models::Captured capture(const std::string& name) { return models::captured(name, 2); }

pare::Model quantized(const models::Captured& subject, const pare::AnyPass& pass) {
  std::vector<pare::Batch> batches{subject.bundle.example(4), subject.bundle.example(4)};
  return pare::apply(pass, subject.model, {.calibration = batches}).model;
}

void check_agrees(const std::vector<torch::Tensor>& expected, const std::vector<torch::Tensor>& actual, double sqnr) {
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    REQUIRE(actual[i].sizes() == expected[i].sizes());
    if (expected[i].is_floating_point()) {
      CHECK(pare::sqnr_db(expected[i], actual[i]) > sqnr);
    } else {
      CHECK(torch::equal(expected[i], actual[i]));
    }
  }
}

}  // namespace

TEST_CASE("float32 compiled models compute what the interpreter computes, at any batch", "[execute]") {
  const torch::NoGradGuard no_grad;
  // The deep CIFAR nets and the larger twins of others are the same code at other sizes.
  const std::set<std::string> twins{"resnet32", "resnet44", "resnet56", "efficientnet_lite1", "minilm_sst2"};
  for (const auto& name : models::names()) {
    if (twins.contains(name)) continue;
    DYNAMIC_SECTION(name) {
      const auto [bundle, model] = capture(name);
      const auto compiled = pare::compile(model, {.tune = false});
      for (const int64_t batch : {1, 3}) {
        const auto inputs = bundle.example(batch);
        check_agrees(model.run(inputs), compiled.run(inputs), kFloatSqnr);
      }
    }
  }
}

TEST_CASE("every packed int8 layer is its simulation, within a quantum", "[execute]") {
  const torch::NoGradGuard no_grad;
  for (const auto* name : {"lenet", "resnet20", "resnet8", "squeezenet", "unet", "shufflenetv2", "lstm", "gru",
                           "transformer", "llama", "two_tower", "swin"}) {
    DYNAMIC_SECTION(name) {
      const auto subject = capture(name);
      // How scales were found does not matter here.
      const auto simulated =
          quantized(subject, pare::Quantizer{.rounding = pare::Rounding::Nearest, .correct_bias = false});
      const auto packed = pare::compile(simulated, {});
      CHECK(check_packed_steps(simulated, packed, subject.bundle.example(3)) > 0);
    }
  }
}

TEST_CASE("the packed int8 model takes a quarter of the bytes", "[execute]") {
  const torch::NoGradGuard no_grad;
  for (const auto* name : {"resnet20", "squeezenet", "resnet8"}) {
    DYNAMIC_SECTION(name) {
      const auto subject = capture(name);
      const auto simulated = quantized(subject, pare::Quantizer{});
      const auto packed = pare::compile(simulated, {});
      const auto inputs = subject.bundle.example(4);
      CHECK(pare::sqnr_db(simulated.run(inputs).at(0), packed.run(inputs).at(0)) > 35.0);
      const auto reference = pare::compile(subject.model, {});
      CHECK(static_cast<double>(packed.weight_bytes()) < 0.3 * static_cast<double>(reference.weight_bytes()));
      CHECK(packed.resident_bytes() >= packed.weight_bytes());
    }
  }
}

TEST_CASE("bf16 compiled models stay near the float ones", "[execute]") {
  const torch::NoGradGuard no_grad;
  for (const auto* name : {"mlp", "lenet", "resnet20", "transformer", "llama"}) {
    DYNAMIC_SECTION(name) {
      const auto [bundle, model] = capture(name);
      const auto compiled = pare::compile(model, {.dtype = torch::kBFloat16, .tune = false});
      const auto inputs = bundle.example(2);
      check_agrees(model.run(inputs), compiled.run(inputs), kBf16Sqnr);
    }
  }
}

TEST_CASE("threads share a compiled model", "[execute]") {
  const torch::NoGradGuard no_grad;
  const auto [bundle, model] = capture("resnet20");
  pare::CompileOptions options;
  options.threads = 1;
  const auto compiled = pare::compile(model, options);
  // Sizes of their own: plans are built while others run.
  std::vector<std::vector<torch::Tensor>> inputs;
  std::vector<torch::Tensor> expected;
  for (int64_t batch = 1; batch <= 4; ++batch) {
    inputs.push_back(bundle.example(batch));
    expected.push_back(model.run(inputs.back()).at(0));
  }
  std::vector<double> worst(4, 1e9);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < worst.size(); ++i)
    threads.emplace_back([&, i] {
      for (std::size_t run = 0; run < 8; ++run) {
        const auto which = (i + run) % inputs.size();
        worst[i] = std::min(worst[i], pare::sqnr_db(expected[which], compiled.run(inputs[which]).at(0)));
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto one : worst) CHECK(one > kFloatSqnr);
}
