// Layers as users name them, whatever LibTorch makes of their calls.
#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

// On sequences LibTorch writes a linear layer as a transposition, a product and a sum.
struct TokenMlp : nn::Module {
  TokenMlp() {
    mix = register_module("mix", nn::Linear(6, 8));
    gate = register_module("gate", nn::Linear(nn::LinearOptions(8, 8).bias(false)));
    head = register_module("head", nn::Linear(nn::LinearOptions(8, 3).bias(false)));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = torch::relu(mix(x));
    return head(y * torch::sigmoid(gate(y)));
  }
  nn::Linear mix{nullptr}, gate{nullptr}, head{nullptr};
};

// Two weights of one module, and a layer below it.
struct Block : nn::Module {
  Block() {
    first = register_parameter("first", torch::randn({8, 6}));
    second = register_parameter("second", torch::randn({8, 8}));
    fc = register_module("fc", nn::Linear(8, 4));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return fc(torch::relu(torch::matmul(torch::relu(torch::matmul(x, first.t())), second.t())));
  }
  torch::Tensor first, second;
  nn::Linear fc{nullptr};
};

struct Around : nn::Module {
  Around() {
    block = register_module("block", std::make_shared<Block>());
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) { return block->forward(x); }
  std::shared_ptr<Block> block;
};

bool kept(const pare::Report& report, const std::string& layer) {
  const auto rows = report.rows(layer);
  REQUIRE_FALSE(rows.empty());
  return rows.back().reason == "kept float on request";
}

}  // namespace

TEST_CASE("a linear layer on sequences is named after its module", "[quantize]") {
  torch::manual_seed(0);
  TokenMlp net;
  const auto x = torch::randn({2, 5, 6});
  const auto model = pare::capture(net, x);
  for (const std::string layer : {"mix", "gate", "head"}) {
    const auto result = pare::apply(pare::Quantizer{.keep_float = {layer}}, model, {.calibration = pare::Batches{x}});
    for (const std::string other : {"mix", "gate", "head"}) {
      INFO(layer << " kept, " << other);
      CHECK(kept(result.report, other) == (other == layer));
    }
  }
}

TEST_CASE("an exact name goes before a module's path", "[quantize]") {
  torch::manual_seed(0);
  Around net;
  const auto x = torch::randn({2, 5, 6});
  const auto model = pare::capture(net, x);
  const auto bits = [&](const pare::Quantizer<>& quantizer) {
    std::vector<std::string> found;
    const auto result = pare::apply(quantizer, model, {.calibration = pare::Batches{x}});
    for (const auto& row : result.report.rows())
      if (row.layer == "block" || row.layer == "block_1" || row.layer == "block.fc")
        found.push_back(row.layer + ": " + row.reason);
    return found;
  };
  const auto mixed =
      bits(pare::Quantizer<>{.keep_float = {"block"}, .layer_weights = {{"block_1", 8_bits}, {"block.fc", 4_bits}}});
  for (const auto& row : mixed) UNSCOPED_INFO(row);
  CHECK(std::ranges::count_if(mixed, [](const auto& row) { return row.ends_with("kept float on request"); }) == 1);
  CHECK(std::ranges::any_of(mixed, [](const auto& row) { return row == "block: kept float on request"; }));
}
