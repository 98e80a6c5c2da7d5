// Channels leave the model and then the live module, whose own forward agrees.
#include <torch/torch.h>

#include "examples/models/captured.hpp"
#include "pare/capture/commit.hpp"
#include "pare/core/error.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"
#include "tests/support/catch.hpp"

namespace {

std::vector<torch::Tensor> copies(const torch::nn::Module& module) {
  std::vector<torch::Tensor> all;
  for (const auto& parameter : module.parameters()) all.push_back(parameter.detach().clone());
  for (const auto& buffer : module.buffers()) all.push_back(buffer.detach().clone());
  return all;
}

std::int64_t entries(const torch::nn::Module& module) {
  std::int64_t count = 0;
  for (const auto& parameter : module.parameters()) count += parameter.numel();
  return count;
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

TEST_CASE("pruned models go back into their live modules, or are refused and leave them alone", "[commit][zoo]") {
  for (const auto& name : models::names()) {
    DYNAMIC_SECTION(name) {
      auto [bundle, model] = models::captured(name, 3);
      const auto pruned = pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = pare::Ratio{0.3}}, model).model;
      const auto before = copies(*bundle.module);
      const auto size = entries(*bundle.module);
      const auto refusal = written_down().find(name);
      try {
        pare::commit(pruned, *bundle.module);
      } catch (const pare::Error& error) {
        INFO(error.what());
        CHECK((error.id() == "pare.commit.111" || error.id() == "pare.commit.103"));
        REQUIRE(refusal != written_down().end());
        CHECK(error.path().find(refusal->second) != std::string::npos);
        const auto after = copies(*bundle.module);
        for (std::size_t i = 0; i < after.size(); ++i) CHECK(torch::equal(after[i], before[i]));
        continue;
      }
      CHECK(refusal == written_down().end());
      CHECK(entries(*bundle.module) < size);
      const torch::NoGradGuard no_grad;
      const auto inputs = bundle.example(3);
      const auto expected = pruned.run(inputs), actual = bundle.forward(inputs);
      REQUIRE(actual.size() == expected.size());
      for (std::size_t i = 0; i < actual.size(); ++i) {
        if (!expected[i].is_floating_point()) continue;
        const auto largest = std::max(1.0, expected[i].abs().max().item<double>());
        CHECK((actual[i] - expected[i]).abs().max().item<double>() < 1e-4 * largest);
      }
    }
  }
}
