// Models on a GPU: what the CPU's tests say must hold there too. Without one, only the refusal is tested.
#include <torch/torch.h>

#include <iostream>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/capture/commit.hpp"
#include "pare/core/error.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/prune/sparsifier.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

bool no_gpu() {
  if (torch::cuda::is_available()) return false;
  std::cerr << "skipped: LibTorch sees no CUDA device here\n";
  return true;
}

models::Tensors to_gpu(models::Tensors tensors) {
  for (auto& tensor : tensors) tensor = tensor.to(torch::kCUDA);
  return tensors;
}

// A model of the zoo on the GPU, and its captured Model.
struct Subject {
  explicit Subject(const std::string& name) : bundle(models::make(name)) {
    models::settle(bundle);
    bundle.module->to(torch::kCUDA);
    bundle.module->eval();
    model = pare::capture_forward(*bundle.module, bundle.forward, to_gpu(bundle.example(2)));
  }
  [[nodiscard]] pare::ContextOptions context() const {
    std::vector<pare::Batch> batches;
    for (int i = 0; i < 2; ++i) batches.push_back(to_gpu(bundle.example(4)));
    return {.calibration = batches};
  }
  models::Bundle bundle;
  pare::Model model;
};

void check_on_gpu(const pare::Model& model) {
  for (const auto& [path, weight] : model.weights()) {
    INFO(path);
    CHECK(weight.tensor.is_cuda());
  }
}

const std::vector<std::string> kNames{"resnet20", "mobilenetv2", "bert6x384", "lstm"};

}  // namespace

TEST_CASE("a GPU model is captured, replayed and compiled where it is", "[cuda]") {
  if (no_gpu()) return;
  const torch::NoGradGuard no_grad;
  for (const auto& name : kNames) {
    INFO(name);
    Subject subject(name);
    const auto inputs = to_gpu(subject.bundle.example(5));
    const auto expected = subject.bundle.forward(inputs).at(0);
    CHECK(torch::equal(subject.model.run(inputs).at(0), expected));
    const auto compiled = pare::compile(subject.model);
    CHECK(compiled.report().backend.find("cuda") != std::string::npos);
    CHECK(torch::allclose(compiled.run(inputs).at(0), expected, 1e-4, 1e-5));
  }
}

TEST_CASE("a GPU model is quantized where it is, as on the CPU", "[cuda]") {
  if (no_gpu()) return;
  const torch::NoGradGuard no_grad;
  for (const auto& name : kNames) {
    INFO(name);
    Subject subject(name);
    const auto quantized = pare::apply(pare::Quantizer{}, subject.model, subject.context()).model;
    check_on_gpu(quantized);
    const auto inputs = to_gpu(subject.bundle.example(5));
    CHECK(pare::sqnr_db(subject.model.run(inputs).at(0), quantized.run(inputs).at(0)) > 15.0);
  }
}

TEST_CASE("a GPU model is pruned, committed and trained where it is", "[cuda]") {
  if (no_gpu()) return;
  for (const auto& name : kNames) {
    INFO(name);
    Subject subject(name);
    torch::optim::AdamW optimizer(subject.bundle.module->parameters(), torch::optim::AdamWOptions(1e-3));
    const auto step = [&] {
      subject.bundle.module->train();
      optimizer.zero_grad();
      subject.bundle.forward(to_gpu(subject.bundle.example(4))).at(0).square().mean().backward();
      optimizer.step();
      subject.bundle.module->eval();
    };
    step();
    const auto pruned =
        pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = pare::Ratio{0.5}}, subject.model).model;
    check_on_gpu(pruned);
    const auto solved = pare::apply(pare::Pruner{.ratio = pare::Ratio{0.3}}, subject.model, subject.context()).model;
    check_on_gpu(solved);
    pare::commit(pruned, *subject.bundle.module, optimizer);
    step();
    const auto inputs = to_gpu(subject.bundle.example(3));
    CHECK(subject.bundle.forward(inputs).at(0).isfinite().all().item<bool>());
    CHECK(subject.bundle.module->parameters()[0].is_cuda());
  }
}

TEST_CASE("a GPU model is made sparse where it is", "[cuda]") {
  if (no_gpu()) return;
  Subject subject("resnet20");
  const auto sparse = pare::apply(pare::Sparsifier{.sparsity = {0.5}}, subject.model, subject.context()).model;
  check_on_gpu(sparse);
}

TEST_CASE("a captured GPU model trains", "[cuda]") {
  if (no_gpu()) return;
  Subject subject("resnet20");
  auto& model = subject.model;
  model.detach_weights();
  model.train();
  for (auto& parameter : model.parameters()) parameter.requires_grad_(true);
  torch::optim::SGD optimizer(model.parameters(), torch::optim::SGDOptions(0.05));
  const auto inputs = to_gpu(subject.bundle.example(16));
  const auto labels = torch::arange(16, torch::kCUDA).remainder(10);
  double first = 0, last = 0;
  for (int i = 0; i < 20; ++i) {
    optimizer.zero_grad();
    const auto loss = torch::nn::functional::cross_entropy(model.run(inputs).at(0), labels);
    loss.backward();
    optimizer.step();
    (i == 0 ? first : last) = loss.item<double>();
  }
  CHECK(last < first);
}

TEST_CASE("inputs on a GPU that is not there are one clear error", "[cuda]") {
  if (torch::cuda::is_available()) return;
  auto bundle = models::make("lenet");
  CHECK_THROWS(bundle.module->to(torch::kCUDA));
  const auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  const auto meta = bundle.example(2).at(0).to(torch::kMeta);
  CHECK(raises("pare.run.105", [&] { static_cast<void>(model.run({meta})); }));
}
