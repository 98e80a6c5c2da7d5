#include <torch/torch.h>

#include <cmath>

#include "pare/analysis/cost.hpp"
#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/block_pruner.hpp"
#include "tests/support/raises.hpp"

using namespace pare::literals;

namespace {

// Four residual blocks; the second hardly does anything.
struct Blocks : torch::nn::Module {
  std::vector<torch::nn::Linear> layers;
  torch::nn::Linear fc{8, 3};
  Blocks() {
    const torch::NoGradGuard no_grad;
    for (int i = 0; i < 4; ++i) {
      layers.push_back(register_module("block" + std::to_string(i), torch::nn::Linear(8, 8)));
      if (i == 1) {
        layers.back()->weight.mul_(1e-4);
        layers.back()->bias.zero_();
      }
    }
    register_module("fc", fc);
    eval();
  }
  torch::Tensor forward(torch::Tensor x) {
    for (auto& layer : layers) x = x + torch::tanh(layer(x));
    return fc(x);
  }
};

}  // namespace

TEST_CASE("the residual branch that matters least goes, with its weights", "[pruner]") {
  torch::manual_seed(0);
  Blocks net;
  const auto model = pare::capture(net, torch::randn({2, 8}));
  pare::ContextOptions options;
  options.calibration = pare::Batches{torch::randn({16, 8})};
  const auto pruned = pare::apply(pare::BlockPruner{.ratio = 25_pct}, model, options);
  CHECK(pruned.model.weights().contains("block0.weight"));
  CHECK_FALSE(pruned.model.weights().contains("block1.weight"));
  CHECK(pare::Cost(pruned.model).macs() == 3 * 64 + 24);
  const auto x = torch::randn({5, 8});
  CHECK((model(x) - pruned.model(x)).abs().max().item<double>() < 1e-2);

  const auto kept = pare::apply(pare::BlockPruner{.ratio = 1_pct, .keep = {"block1"}}, model, options);
  CHECK(kept.model.weights().contains("block1.weight"));
  CHECK(kept.report.count(pare::Decision::Done) == 1);

  CHECK(raises("pare.prune.101",
               [&] { static_cast<void>(pare::apply(pare::BlockPruner{.ratio = pare::Ratio{1.0}}, model, options)); }));
  CHECK(raises("pare.prune.104",
               [&] { static_cast<void>(pare::apply(pare::BlockPruner{.keep = {"tail"}}, model, options)); }));
  CHECK(raises("pare.prune.109",
               [&] { static_cast<void>(pare::apply(pare::BlockPruner{.keep = {"*"}}, model, options)); }));
  CHECK(raises("pare.pass.102", [&] { static_cast<void>(pare::apply(pare::BlockPruner{}, model)); }));
  for (const auto& batch : {torch::full({4, 8}, std::nan("")), torch::randn({0, 8})})
    CHECK(raises("pare.prune.103",
                 [&] { (void)pare::apply(pare::BlockPruner{}, model, {.calibration = pare::Batches{batch}}); }));
}
