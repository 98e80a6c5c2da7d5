#include "pare/prune/drop_dead_channels.hpp"

#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/capture/commit.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/masks.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;

struct DeadNet : nn::Module {
  nn::Conv2d first{nn::Conv2dOptions(3, 8, 3).padding(1).bias(false)};
  nn::BatchNorm2d norm{8};
  nn::Conv2d second{nn::Conv2dOptions(8, 6, 3).padding(1)};
  nn::Linear head{6, 4};
  DeadNet() {
    register_module("first", first);
    register_module("norm", norm);
    register_module("second", second);
    register_module("head", head);
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return head(torch::relu(second(torch::relu(norm(first(x))))).mean({2, 3}));
  }
};

pare::Masks dying_masks(const DeadNet& net) {
  pare::Masks masks;
  auto rows = torch::ones_like(net.first->weight, torch::kBool);
  rows[2].fill_(false);  // its batch norm makes a negative constant of it: silent
  rows[3].fill_(false);  // a positive one: it is heard
  auto columns = torch::ones_like(net.second->weight, torch::kBool);
  columns.select(1, 5).fill_(false);  // nobody reads it
  masks.set("first.weight", rows);
  masks.set("second.weight", columns);
  return masks;
}

}  // namespace

TEST_CASE("channels that died under a mask leave, and the live module follows", "[pruner]") {
  torch::manual_seed(1);
  DeadNet net;
  {
    const torch::NoGradGuard no_grad;
    net.norm->bias[2] = -0.5;
    net.norm->bias[3] = 0.5;
  }
  dying_masks(net).apply(pare::Masks::named_parameters(net));
  auto model = pare::capture(net, torch::randn({2, 3, 6, 6}));
  model.detach_weights();
  const auto x = torch::randn({4, 3, 6, 6});
  const auto expected = model(x);
  const auto dropped = pare::apply(pare::DropDeadChannels{}, model);
  CHECK(dropped.model.weight("first.weight").size(0) == 6);
  CHECK(dropped.model.weight("second.weight").size(1) == 6);
  CHECK(dropped.model.weight("second.weight").size(0) == 6);
  CHECK((dropped.model(x) - expected).abs().max().item<double>() < 1e-5);
  CHECK(dropped.report.count(pare::Decision::Done) == 1);

  pare::commit(dropped.model, net);
  CHECK(net.first->options.out_channels() == 6);
  CHECK((net.forward(x) - expected).abs().max().item<double>() < 1e-5);
}

TEST_CASE("nothing leaves a model without dead channels, and bad options are refused", "[pruner]") {
  torch::manual_seed(1);
  DeadNet net;
  const auto model = pare::capture(net, torch::randn({2, 3, 6, 6}));
  const auto same = pare::apply(pare::DropDeadChannels{}, model);
  CHECK(same.model.weight("first.weight").size(0) == 8);
  CHECK(same.report.rows().empty());
  CHECK(
      raises("pare.prune.102", [&] { static_cast<void>(pare::apply(pare::DropDeadChannels{.tolerance = 0}, model)); }));
  const auto nan = torch::full({2, 3, 6, 6}, std::nan(""));
  CHECK(raises("pare.prune.103", [&] {
    static_cast<void>(pare::apply(pare::DropDeadChannels{}, model, {.calibration = pare::Batches{nan}}));
  }));
}
