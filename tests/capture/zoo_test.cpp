#include <torch/torch.h>

#include <chrono>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/core/error.hpp"
#include "tests/support/catch.hpp"

namespace {

bool same(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  return a.is_floating_point() ? torch::allclose(a, b, 0, 0, true) : torch::equal(a, b);
}

torch::Tensor loss_of(const models::Tensors& outputs) {
  auto loss = torch::zeros({});
  for (const auto& output : outputs)
    if (output.is_floating_point() && output.requires_grad()) loss = loss + output.square().mean();
  return loss;
}

std::vector<torch::Tensor> gradients(const models::Bundle& bundle) {
  std::vector<torch::Tensor> result;
  for (auto& parameter : bundle.module->parameters()) {
    result.push_back(parameter.grad().defined() ? parameter.grad().clone() : torch::zeros({0}));
    parameter.mutable_grad() = torch::Tensor();
  }
  return result;
}

}  // namespace

TEST_CASE("every model of the zoo replays bit-identically and trains", "[capture][zoo]") {
  for (const auto& name : models::names()) {
    DYNAMIC_SECTION(name) {
      torch::manual_seed(3);
      auto bundle = models::make(name);
      const auto started = std::chrono::steady_clock::now();
      auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
      INFO(name << " captured in " << seconds.count() << " s, " << model.graph().nodes().size() << " nodes");
      for (const auto& note : model.notes()) UNSCOPED_INFO(note);
      CHECK(bundle.module->is_training());
      {
        const torch::NoGradGuard no_grad;
        bundle.module->eval();
        for (const int64_t batch : {1, 4}) {
          const auto inputs = bundle.example(batch);
          const auto expected = bundle.forward(inputs);
          const auto actual = model.run(inputs);
          REQUIRE(actual.size() == expected.size());
          for (std::size_t i = 0; i < actual.size(); ++i) CHECK(same(actual[i], expected[i]));
        }
        bundle.module->train();
      }
      REQUIRE(model.can_train());
      const auto inputs = bundle.example(3);
      torch::manual_seed(5);
      loss_of(bundle.forward(inputs)).backward();
      const auto expected = gradients(bundle);
      model.train();
      torch::manual_seed(5);
      loss_of(model.run(inputs)).backward();
      const auto actual = gradients(bundle);
      for (std::size_t i = 0; i < actual.size(); ++i) CHECK(same(actual[i], expected[i]));
    }
  }
}
