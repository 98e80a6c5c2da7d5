// Networks as C: compiled as strict C99, run on the host and on an emulated Cortex-M, against the simulation.
#include "pare/mcu/write_c.hpp"

#include <torch/torch.h>

#include <iostream>
#include <regex>

#include "examples/data/dataset.hpp"
#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/mcu/c_program.hpp"
#include "tests/mcu/quantized.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

/// The same integers with CMSIS-NN's kernels: on the host, with DSP instructions, and with vectors.
void check_cmsis_nn(const std::string& name, const ScratchFolder& folder, const pare::mcu::CSource& source,
                    const torch::Tensor& samples, const torch::Tensor& scores) {
  const auto root = cmsis_nn();
  if (!root) return;
  CHECK(torch::equal(cmsis_nn_host_scores(folder, samples, *root), scores));
  const auto few = samples.narrow(0, 0, std::min<int64_t>(2, samples.size(0)));
  for (const auto& core : {kCortexM3, kCortexM4, kCortexM55}) {
    INFO(core.name);
    const auto plain = run_on_cortex(folder, few, scores.size(1), core),
               faster = run_on_cortex(folder, few, scores.size(1), core, *root);
    if (!plain || !faster) return;
    CHECK(torch::equal(plain->scores, scores.narrow(0, 0, few.size(0))));
    CHECK(torch::equal(faster->scores, plain->scores));
    CHECK(faster->ram == plain->ram + source.scratch_bytes);
    print_cortex(name, *plain, core);
    print_cortex(name, *faster, core, true);
  }
}

struct Outcome {
  pare::mcu::CSource source;
  torch::Tensor scores;             ///< real numbers
  std::optional<CortexRun> cortex;  ///< of a few samples
};

/// @param exact_share of the samples without any integer that differs from the simulation's: deep networks have so many
///                    numbers that one of them lies at a rounding boundary in most samples
Outcome check_program(const std::string& name, const pare::Model& model, const torch::Tensor& inputs,
                      double exact_share) {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  Outcome outcome{pare::mcu::write_c(model, folder.file("net.c")), {}, {}};
  CHECK(outcome.source.prefix == "net");
  CHECK(folder.count() == 2);
  const auto code = std::regex_replace(contents(folder.file("net.c")), std::regex("/\\*[^*]*\\*/"), "");
  CHECK(!std::regex_search(code, std::regex("\\b(float|double|malloc|math\\.h|[0-9]\\.[0-9])\\b")));
  const auto samples = integers(inputs, outcome.source.input);
  const auto scores = host_scores(folder, samples);
  outcome.scores = scores.to(torch::kDouble) * outcome.source.output_scale;
  const auto expected = model.run({inputs}).at(0).flatten(1);
  REQUIRE(outcome.scores.sizes() == expected.sizes());
  // The integers are the simulation's; float32 sums differ from them in the last bits of the scores. Where one of the
  // simulation's own numbers lay at a rounding boundary, a sample may be a quantum off.
  const auto largest = expected.abs().max().item<double>();
  const auto worst = (outcome.scores - expected).abs().amax(1) / largest;
  const auto exact = worst.lt(1e-4).sum().item<int64_t>();
  INFO("exact " << exact << " of " << worst.numel() << ", worst " << worst.max().item<double>());
  CHECK(static_cast<double>(exact) >= exact_share * static_cast<double>(worst.numel()));
  CHECK(pare::sqnr_db(expected, outcome.scores) > 40.0);
  CHECK(outcome.scores.argmax(1).ne(expected.argmax(1)).sum().item<int64_t>() * 100 <= worst.numel());
  const auto few = samples.narrow(0, 0, std::min<int64_t>(4, samples.size(0)));
  check_cmsis_nn(name, folder, outcome.source, samples, scores);
  outcome.cortex = run_on_cortex(folder, few, scores.size(1));
  if (outcome.cortex) CHECK(torch::equal(outcome.cortex->scores, scores.narrow(0, 0, few.size(0))));
  return outcome;
}

/// Everything that there is a kernel for.
struct EveryKernelImpl : torch::nn::Module {
  EveryKernelImpl() {
    register_module("stem", stem);
    register_module("depthwise", depthwise);
    register_module("pointwise", pointwise);
    register_module("branch", branch);
    register_module("fc", fc);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(stem(torch::constant_pad_nd(x, {0, 1, 0, 1})));
    auto z = pointwise(torch::relu6(depthwise(y)));
    z = torch::relu(z + y);
    z = torch::cat({z, branch(z)}, 1);
    z = torch::max_pool2d(z, 3, 2, 1);
    return torch::softmax(fc(z.mean({2, 3})), 1);
  }
  torch::nn::Conv2d stem{torch::nn::Conv2dOptions(3, 8, 3).stride(2)};
  torch::nn::Conv2d depthwise{torch::nn::Conv2dOptions(8, 8, 3).padding(1).groups(8)};
  torch::nn::Conv2d pointwise{torch::nn::Conv2dOptions(8, 8, 1)};
  torch::nn::Conv2d branch{torch::nn::Conv2dOptions(8, 4, 3).padding(2).dilation(2)};
  torch::nn::Linear fc{12, 6};
};
TORCH_MODULE(EveryKernel);

}  // namespace

TEST_CASE("every kernel gives the simulation's integers", "[mcu]") {
  torch::manual_seed(3);
  EveryKernel net;
  net->eval();
  const auto example = torch::randn({4, 3, 16, 16});
  const auto model = pare::capture(net, example);
  const auto int8 =
      pare::apply(pare::Quantizer{}, model, {.calibration = pare::Batches{torch::randn({16, 3, 16, 16})}}).model;
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto source = pare::mcu::write_c(int8, folder.file("net.c"));
  const auto inputs = torch::randn({32, 3, 16, 16});
  const auto samples = integers(inputs, source.input);
  const auto scores = host_scores(folder, samples);
  const auto probabilities = torch::softmax(scores.to(torch::kDouble) * source.output_scale, 1);
  const auto expected = int8.run({inputs}).at(0);
  CHECK(pare::sqnr_db(expected, probabilities) > 50.0);
  CHECK((probabilities - expected).abs().amax(1).lt(1e-5).sum().item<int64_t>() >= 26);
  if (const auto emulated = run_on_cortex(folder, samples.narrow(0, 0, 3), 6))
    CHECK(torch::equal(emulated->scores, scores.narrow(0, 0, 3)));
  check_cmsis_nn("every kernel", folder, source, samples, scores);
}

TEST_CASE("networks with random weights, on the host", "[mcu]") {
  for (const auto* name : {"digits_mlp", "mlp", "lenet", "resnet8", "mobilenetv2"}) {
    DYNAMIC_SECTION(name) {
      torch::manual_seed(6);
      auto bundle = models::make(name);
      models::settle(bundle);
      const auto model = quantized(bundle, {bundle.example(8)});
      if (std::string(name) == "mobilenetv2") {
        // Deep and random: single quanta grow. That it becomes a program at all is what counts here.
        const ScratchFolder folder;
        CHECK(pare::mcu::write_c(model, folder.file("net.c")).macs > 100'000'000);
        continue;
      }
      const auto outcome =
          check_program(name, model, bundle.example(32).at(0), std::string(name) == "resnet8" ? 0.0 : 0.8);
      if (std::string(name) == "digits_mlp") {
        CHECK(outcome.source.flash_bytes < 64 * 1024);
        CHECK(outcome.source.arena_bytes < 8 * 1024);
      }
      if (std::string(name) == "mlp") {
        CHECK(outcome.source.flash_bytes < 1024 * 1024);
        CHECK(outcome.source.arena_bytes < 64 * 1024);
      }
    }
  }
}

TEST_CASE("ResNet-8 keeps its accuracy on CIFAR-10 as C", "[mcu]") {
  const auto trained = trained_resnet8();
  if (!trained) return;
  const auto& [bundle, set, model] = *trained;
  const torch::NoGradGuard no_grad;
  const auto reference = data::top1_percent(bundle.forward({set.inputs[0]}).at(0), set.labels);
  const auto outcome = check_program("resnet8", model, set.inputs[0], 0.0);
  const auto percent = data::top1_percent(outcome.scores.to(torch::kFloat), set.labels);
  std::cerr << fmt::format("resnet8: {:.2f} % as C, {:.2f} % in float\n", percent, reference);
  if (outcome.cortex) print_cortex("resnet8", *outcome.cortex);
  CHECK(percent >= reference - 1.0);
}

TEST_CASE("what a microcontroller cannot run is one error, and no file is written", "[mcu]") {
  const ScratchFolder folder;
  const auto path = folder.file("net.c");
  torch::manual_seed(7);
  const auto capture = [](models::Bundle& bundle) {
    bundle.module->eval();
    return pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  };
  auto mlp = models::make("mlp"), transformer = models::make("transformer"), heads = models::make("multi_head"),
       unet = models::make("unet");
  CHECK(raises("pare.mcu.102", [&] { pare::mcu::write_c(capture(mlp), path); }));
  try {
    pare::mcu::write_c(quantized(unet, {unet.example(2)}), path);
    FAIL("transposed convolutions have no kernel");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.mcu.101");
    CHECK(error.path() == "up.0");
  }
  auto silent = models::make("mlp");
  {
    const torch::NoGradGuard no_grad;
    const auto parameters = silent.module->parameters();
    for (auto last = parameters.end() - 2; last != parameters.end(); ++last) torch::Tensor(*last).zero_();
  }
  try {
    pare::mcu::write_c(quantized(silent, {silent.example(4)}), path);
    FAIL("there is nothing to compute");
  } catch (const pare::Error& error) {
    CHECK(std::string(error.what()).find("weights and biases are zero") != std::string::npos);
  }
  CHECK_THROWS_AS(pare::mcu::write_c(quantized(transformer, {transformer.example(2)}), path), pare::Error);
  CHECK(raises("pare.mcu.103", [&] { pare::mcu::write_c(quantized(heads, {heads.example(2)}), path); }));
  const auto good = quantized(mlp, {mlp.example(4)});
  CHECK(raises("pare.mcu.104", [&] { pare::mcu::write_c(good, folder.file("net.cpp")); }));
  CHECK(raises("pare.mcu.104", [&] { pare::mcu::write_c(good, folder.file("absent/net.c")); }));
  CHECK(folder.count() == 0);
}

TEST_CASE("a length that varies is no batch: a program is written for one length", "[mcu]") {
  namespace nn = torch::nn;
  torch::manual_seed(3);
  nn::Sequential net(nn::Conv1d(nn::Conv1dOptions(1, 8, 9).padding(4)), nn::ReLU(), nn::AdaptiveAvgPool1d(1),
                     nn::Flatten(), nn::Linear(8, 3));
  net->eval();
  const auto sound = torch::randn({1, 1, 256});
  const auto int8_of = [&](const pare::CaptureOptions& options) {
    return pare::apply(pare::Quantizer{}, pare::capture(net, sound, options), {.calibration = sound}).model;
  };
  const ScratchFolder folder;
  const auto path = folder.file("net.c");
  const auto varying = int8_of({.dims = {{.name = "length", .where = {{0, 2}}}}});
  CHECK(raises("pare.mcu.103", [&] { pare::mcu::write_c(varying, path); }));
  CHECK(folder.count() == 0);
  pare::mcu::write_c(int8_of({.fixed_sizes = true}), path);
  CHECK(contents(folder.file("net.h")).find("256") != std::string::npos);
}
