// Channels leave the model and then the live module, whose own forward agrees.
#include <torch/torch.h>

#include "examples/models/registry.hpp"
#include "pare/capture/commit.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"
#include "tests/support/catch.hpp"

TEST_CASE("pruned models go back into their live modules", "[commit][zoo]") {
  for (const auto* name : {"mobilenetv2", "squeezenet", "unet", "densenet", "lstm", "gru", "multi_head"}) {
    DYNAMIC_SECTION(name) {
      torch::manual_seed(3);
      auto bundle = models::make(name);
      models::settle(bundle);
      bundle.module->eval();
      const auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
      const auto pruned = pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = pare::Ratio{0.3}}, model);
      std::int64_t before = 0, after = 0;
      for (const auto& parameter : bundle.module->parameters()) before += parameter.numel();
      pare::commit(pruned.model, *bundle.module);
      for (const auto& parameter : bundle.module->parameters()) after += parameter.numel();
      CHECK(after < before);
      const torch::NoGradGuard no_grad;
      const auto inputs = bundle.example(3);
      const auto expected = pruned.model.run(inputs), actual = bundle.forward(inputs);
      REQUIRE(actual.size() == expected.size());
      for (std::size_t i = 0; i < actual.size(); ++i) CHECK(torch::allclose(actual[i], expected[i], 1e-4, 1e-5));
    }
  }
}

TEST_CASE("a shortcut that pads a fixed number of channels is named, and its module left alone", "[commit][zoo]") {
  torch::manual_seed(3);
  auto bundle = models::make("resnet20");
  models::settle(bundle);
  bundle.module->eval();
  const auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  const auto pruned = pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = pare::Ratio{0.3}}, model);
  std::vector<torch::Tensor> before;
  for (const auto& parameter : bundle.module->parameters()) before.push_back(parameter.detach().clone());
  try {
    pare::commit(pruned.model, *bundle.module);
    FAIL("was accepted");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.commit.111");
    CHECK(error.path().find("_pad_enum") != std::string::npos);
  }
  const auto after = bundle.module->parameters();
  for (std::size_t i = 0; i < after.size(); ++i) CHECK(torch::equal(after[i], before[i]));
}
