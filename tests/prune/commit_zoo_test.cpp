// Channels leave the model and then the live module, whose own forward agrees.
#include <torch/torch.h>

#include "examples/models/captured.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/capture/commit.hpp"
#include "pare/core/error.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"
#include "tests/support/catch.hpp"

namespace {

std::vector<torch::Tensor> tensors_in(const torch::nn::Module& module) {
  auto all = module.parameters();
  for (const auto& buffer : module.buffers()) all.push_back(buffer);
  return all;
}

std::vector<torch::Tensor> copies(const torch::nn::Module& module) {
  auto all = tensors_in(module);
  for (auto& tensor : all) tensor = tensor.detach().clone();
  return all;
}

void check_unchanged(const torch::nn::Module& module, const std::vector<torch::Tensor>& before) {
  const auto after = tensors_in(module);
  REQUIRE(after.size() == before.size());
  for (std::size_t i = 0; i < after.size(); ++i) CHECK(torch::equal(after[i], before[i]));
}

std::int64_t entries(const torch::nn::Module& module) {
  std::int64_t count = 0;
  for (const auto& parameter : module.parameters()) count += parameter.numel();
  return count;
}

void check_agreement(const pare::Model& model, const models::Bundle& bundle) {
  const torch::NoGradGuard no_grad;
  const auto inputs = bundle.example(3);
  const auto expected = model.run(inputs), actual = bundle.forward(inputs);
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (!expected[i].is_floating_point()) continue;
    const auto largest = std::max(1.0, expected[i].abs().max().item<double>());
    CHECK((actual[i] - expected[i]).abs().max().item<double>() < 1e-4 * largest);
  }
}

// A step of the user's own loop on the live module.
void check_training(const models::Bundle& bundle) {
  bundle.module->train();
  torch::optim::SGD optimizer(bundle.module->parameters(), 1e-3);
  torch::Tensor sum;
  for (const auto& output : bundle.forward(bundle.example(3)))
    if (output.is_floating_point()) sum = sum.defined() ? sum + output.square().mean() : output.square().mean();
  sum.backward();
  optimizer.step();
  CHECK(std::isfinite(sum.item<double>()));
  bool learned = false;
  for (const auto& parameter : bundle.module->parameters())
    if (parameter.grad().defined()) {
      CHECK(parameter.grad().sizes() == parameter.sizes());
      learned = true;
    }
  CHECK(learned);
  bundle.module->eval();
}

// Models whose forward has numbers of channels written into it: where that shows.
const std::map<std::string, std::string>& written_down() {
  static const std::map<std::string, std::string> models{
      {"bert6x384", "view"},        {"minilm_sst2", "view"},   {"llama", "view"},         {"swin", "reshape"},
      {"transformer", "self_attn"}, {"two_tower", "view"},     {"ghostnet", "slice"},     {"shufflenetv2", "chunk"},
      {"resnet20", "_pad_enum"},    {"resnet32", "_pad_enum"}, {"resnet44", "_pad_enum"}, {"resnet56", "_pad_enum"}};
  return models;
}

}  // namespace

TEST_CASE("every model is pruned so that its live module's own forward follows, and trains", "[commit][zoo]") {
  for (const auto& name : models::names()) {
    INFO(name);
    auto [bundle, model] = models::captured(name, 3);
    const auto before = copies(*bundle.module);
    const auto size = entries(*bundle.module);
    for (const double ratio : {0.1, 0.3, 0.5, 0.7}) {
      INFO(ratio);
      const auto pruned =
          pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = pare::Ratio{ratio}, .commit_to = *bundle.module},
                      model)
              .model;
      check_unchanged(*bundle.module, before);
      CHECK(pare::Cost(pruned).macs() < pare::Cost(model).macs());
      auto committed = pare::commit(pruned, *bundle.module);
      CHECK(entries(*bundle.module) < size);
      if (ratio == 0.7) {  // commit has compared forwards, in both modes, at every ratio
        check_agreement(pruned, bundle);
        check_training(bundle);
      }
      committed.roll_back();
      check_unchanged(*bundle.module, before);
    }
  }
}

TEST_CASE("what the forward has written in is refused where it was pruned all the same", "[commit][zoo]") {
  for (const auto& [name, where] : written_down()) {
    INFO(name);
    auto [bundle, model] = models::captured(name, 3);
    const auto pruned = pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = pare::Ratio{0.3}}, model).model;
    const auto before = copies(*bundle.module);
    try {
      pare::commit(pruned, *bundle.module);
      FAIL("it was committed");
    } catch (const pare::Error& error) {
      INFO(error.what());
      CHECK((error.id() == "pare.commit.111" || error.id() == "pare.commit.103"));
      CHECK(error.path().find(where) != std::string::npos);
    }
    check_unchanged(*bundle.module, before);
  }
}
