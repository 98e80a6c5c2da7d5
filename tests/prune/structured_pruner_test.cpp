#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "examples/models/cifar_resnet.hpp"
#include "pare/analysis/channel_groups.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/capture/capture.hpp"
#include "pare/capture/commit.hpp"
#include "pare/numerics/schedule.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/activation.hpp"
#include "pare/prune/batch_norm_scale.hpp"
#include "pare/prune/fisher.hpp"
#include "pare/prune/geometric_median.hpp"
#include "pare/prune/l1.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/lamp.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/prune/random.hpp"
#include "pare/prune/taylor.hpp"
#include "pare/prune/wanda.hpp"
#include "tests/support/raises.hpp"

using namespace pare::literals;

namespace {

struct Net : torch::nn::Module {
  torch::nn::Conv2d stem{torch::nn::Conv2dOptions(3, 16, 3).padding(1).bias(false)};
  torch::nn::BatchNorm2d norm{16};
  torch::nn::Conv2d wide{torch::nn::Conv2dOptions(16, 24, 3).padding(1)};
  torch::nn::Linear fc{24, 5};
  Net() {
    register_module("stem", stem);
    register_module("norm", norm);
    register_module("wide", wide);
    register_module("fc", fc);
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return fc(torch::relu(wide(torch::relu(norm(stem(x))))).mean({2, 3}));
  }
};

struct Fixture {
  Net net;
  pare::Model model;
  pare::ContextOptions options;
  explicit Fixture(int seed = 0) {
    torch::manual_seed(seed);
    net = Net();
    model = pare::capture(net, torch::randn({2, 3, 8, 8}));
    options.calibration = pare::Batches{torch::randn({8, 3, 8, 8}), torch::randn({8, 3, 8, 8})};
  }
};

std::int64_t kept(const pare::Model& model, const char* path, std::int64_t dim = 0) {
  return model.weight(path).size(dim);
}

double error_of(const pare::Model& a, const pare::Model& b, const pare::Batches& batches) {
  double noise = 0, signal = 0;
  for (const auto& batch : batches) {
    const auto x = a.run(batch)[0], y = b.run(batch)[0];
    noise += (x - y).square().sum().item<double>();
    signal += x.square().sum().item<double>();
  }
  return noise / signal;
}

template <class Importance>
void check_criterion(Importance importance, const char* name) {
  INFO(name);
  Fixture fixture;
  const auto pruned =
      pare::apply(pare::Pruner<Importance>{.importance = importance, .ratio = 50_pct}, fixture.model, fixture.options);
  CHECK(kept(pruned.model, "stem.weight") == 8);
  CHECK(kept(pruned.model, "wide.weight") == 12);
  const at::Tensor outputs = pruned.model(torch::randn({3, 3, 8, 8}));
  CHECK(outputs.isfinite().all().item<bool>());
}

}  // namespace

TEST_CASE("half of every group leaves, with all that belongs to it", "[pruner]") {
  Fixture fixture;
  const auto before = fixture.net.stem->weight.clone();
  const auto pruned =
      pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = 50_pct, .reconstruct = false, .recalibrate = false},
                  fixture.model);
  CHECK(kept(pruned.model, "stem.weight") == 8);
  CHECK(kept(pruned.model, "norm.running_var") == 8);
  CHECK(kept(pruned.model, "wide.weight", 1) == 8);
  CHECK(kept(pruned.model, "fc.weight", 1) == 12);
  CHECK(fixture.net.stem->weight.equal(before));
  CHECK(fixture.model.weight("stem.weight").size(0) == 16);

  // What stays is the largest half, and the weight table knows which.
  const auto norms = before.square().sum({1, 2, 3}) + fixture.net.wide->weight.square().sum({0, 2, 3});
  const auto& steps = pruned.model.weights().narrowings("stem.weight");
  REQUIRE(steps.size() == 1);
  CHECK(steps[0].dim == 0);
  CHECK(before.index_select(0, torch::tensor(steps[0].kept)).equal(pruned.model.weight("stem.weight")));
  auto largest = std::get<1>(norms.topk(8)).contiguous();
  largest = std::get<0>(largest.sort());
  CHECK(torch::tensor(steps[0].kept).equal(largest));

  auto copy = pruned.model;
  copy.train();
  copy(torch::randn({4, 3, 8, 8})).sum().backward();
  CHECK(pruned.report.count(pare::Decision::Done) == 2);
}

TEST_CASE("channels that contribute nothing leave the output as it was", "[pruner]") {
  Fixture fixture;
  {
    const torch::NoGradGuard no_grad;
    for (const auto channel : {1, 5, 6, 11}) {
      fixture.net.wide->weight.select(1, channel).zero_();
      fixture.net.stem->weight[channel].zero_();
    }
  }
  const auto pruned = pare::apply(
      pare::Pruner{
          .importance = pare::L2{}, .ratio = 25_pct, .keep = {"fc"}, .reconstruct = false, .recalibrate = false},
      fixture.model);
  CHECK(kept(pruned.model, "stem.weight") == 12);
  CHECK(kept(pruned.model, "wide.weight") == 24);
  const auto x = torch::randn({4, 3, 8, 8});
  CHECK((fixture.model(x) - pruned.model(x)).abs().max().item<double>() < 1e-5);
}

TEST_CASE("every criterion prunes", "[pruner]") {
  check_criterion(pare::L1{}, "L1");
  check_criterion(pare::L2{}, "L2");
  check_criterion(pare::BatchNormScale{}, "BatchNormScale");
  check_criterion(pare::GeometricMedian{}, "GeometricMedian");
  check_criterion(pare::Taylor{}, "Taylor");
  check_criterion(pare::Fisher{}, "Fisher");
  check_criterion(pare::Wanda{}, "Wanda");
  check_criterion(pare::Lamp{}, "Lamp");
  check_criterion(pare::Activation{}, "Activation, mean");
  check_criterion(pare::Activation{.measure = pare::Activation::Measure::NonZero}, "Activation, APoZ");
  check_criterion(pare::Random{.seed = 3}, "Random");
  struct LargestWeight {
    at::Tensor operator()(const pare::SliceView& view) const { return view.weight.abs().amax(1); }
  };
  check_criterion(LargestWeight{}, "one's own");
}

TEST_CASE("budgets are met and counted as executed", "[pruner]") {
  Fixture fixture;
  const auto before = pare::Cost(fixture.model);
  const auto left = [&](auto pruner) {
    const auto pruned = pare::apply(pruner, fixture.model, fixture.options);
    const pare::Cost cost(pruned.model);
    std::int64_t executed = 0;
    std::map<std::size_t, std::vector<std::int64_t>> sizes;
    static_cast<void>(pruned.model.run(
        {torch::randn({1, 3, 8, 8})},
        [&](pare::ValueId value, const at::Tensor& tensor) { sizes[pare::index(value)] = tensor.sizes().vec(); }));
    const auto& graph = pruned.model.graph();
    for (const auto id : graph.nodes())
      if (!graph.node(id).outputs.empty() && graph.node(id).condition != pare::Condition::Training)
        executed += pare::macs_of(graph, graph.node(id), [&](pare::ValueId value) {
          return graph.value(value).kind == pare::ValueKind::Weight ? pruned.model.weight(value).sizes().vec()
                                                                    : sizes[pare::index(value)];
        });
    CHECK(cost.macs() == executed);
    return std::pair(static_cast<double>(cost.macs()) / static_cast<double>(before.macs()),
                     static_cast<double>(cost.parameters()) / static_cast<double>(before.parameters()));
  };
  const auto macs = left(pare::Pruner{.macs = 40_pct}).first;
  CHECK(macs <= 0.6);
  CHECK(macs > 0.5);
  const auto parameters = left(pare::Pruner{.parameters = 40_pct}).second;
  CHECK(parameters <= 0.6);
  CHECK(parameters > 0.5);
  for (const auto scope : {pare::Scope::Global, pare::Scope::Isomorphic, pare::Scope::PerGroup})
    CHECK(left(pare::Pruner{.importance = pare::L2{}, .macs = 40_pct, .scope = scope}).first <= 0.6);

  const auto rounded = pare::apply(pare::Pruner{.macs = 30_pct, .round_to = 8}, fixture.model, fixture.options);
  CHECK(kept(rounded.model, "stem.weight") % 8 == 0);
  CHECK(kept(rounded.model, "wide.weight") % 8 == 0);
}

TEST_CASE("what the last channel to go has made needless comes back", "[pruner]") {
  torch::manual_seed(2);
  auto net = models::CifarResNet(20);
  net->eval();
  const auto model = pare::capture(net, torch::randn({2, 3, 32, 32}));
  const auto pruned =
      pare::apply(pare::Pruner{.importance = pare::L2{}, .macs = 50_pct, .scope = pare::Scope::Global}, model);
  const auto left =
      static_cast<double>(pare::Cost(pruned.model).macs()) / static_cast<double>(pare::Cost(model).macs());
  CHECK(left <= 0.5);
  CHECK(left > 0.498);  // a residual channel alone is two hundredths of the whole
}

TEST_CASE("least squares leaves less of an error than removal alone", "[pruner]") {
  Fixture fixture;
  const auto plain =
      pare::apply(pare::Pruner{.importance = pare::L2{}, .macs = 50_pct, .reconstruct = false, .recalibrate = false},
                  fixture.model, fixture.options);
  const auto refitted =
      pare::apply(pare::Pruner{.importance = pare::L2{}, .macs = 50_pct}, fixture.model, fixture.options);
  const auto& batches = fixture.options.calibration;
  CHECK(error_of(fixture.model, refitted.model, batches) < 0.25 * error_of(fixture.model, plain.model, batches));
}

TEST_CASE("inputs that hardly vary about a large mean are no obstacle", "[pruner]") {
  torch::manual_seed(3);
  auto net = torch::nn::Sequential(torch::nn::Linear(8, 64), torch::nn::ReLU(), torch::nn::Linear(64, 4));
  const torch::NoGradGuard no_grad;
  net->ptr<torch::nn::LinearImpl>(0)->weight.mul_(1e-6);
  net->ptr<torch::nn::LinearImpl>(0)->bias.copy_(torch::rand({64}) + 1);
  net->eval();
  const auto model = pare::capture(net, torch::randn({2, 8}));
  const pare::ContextOptions options{.calibration = pare::Batches{torch::randn({64, 8}), torch::randn({64, 8})}};
  const auto pruned = pare::apply(pare::Pruner{.ratio = 50_pct}, model, options);
  CHECK(kept(pruned.model, "0.weight") == 32);
  const auto x = torch::randn({16, 8});
  CHECK(torch::allclose(pruned.model(x), model(x), 1e-3, 1e-3));
}

TEST_CASE("pruning can be repeated", "[pruner]") {
  Fixture fixture;
  auto model = fixture.model;
  for (int i = 0; i < 2; ++i)
    model = pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = 25_pct}, model, fixture.options).model;
  CHECK(kept(model, "stem.weight") == 9);
  const auto& steps = model.weights().narrowings("stem.weight");
  REQUIRE(steps.size() == 2);
  CHECK(steps[0].kept.size() == 12);
  CHECK(steps[1].kept.size() == 9);
}

TEST_CASE("bad input is one clear error, and the model is what it was", "[pruner]") {
  Fixture fixture;
  const auto outputs = fixture.model(torch::ones({1, 3, 8, 8}));
  const auto prune = [&](auto pruner) { static_cast<void>(pare::apply(pruner, fixture.model, fixture.options)); };
  CHECK(raises("pare.prune.101", [&] { prune(pare::Pruner{.ratio = pare::Ratio{1.0}}); }));
  CHECK(raises("pare.prune.101", [&] { prune(pare::Pruner{.macs = pare::Ratio{0.0}}); }));
  CHECK(raises("pare.prune.101", [&] { prune(pare::Pruner{.macs = pare::Ratio{std::nan("")}}); }));
  CHECK(raises("pare.prune.102", [&] { prune(pare::Pruner{.min_channels = 0}); }));
  CHECK(raises("pare.prune.102", [&] { prune(pare::Pruner{.max_ratio = pare::Ratio{1.0}}); }));
  CHECK(raises("pare.prune.104", [&] { prune(pare::Pruner{.keep = {"backbone.*"}}); }));
  CHECK(raises("pare.prune.105", [&] { prune(pare::Pruner{.macs = 99_pct}); }));
  CHECK(raises("pare.prune.101", [&] { prune(pare::Pruner{.latency = pare::Ratio{1.5}}); }));
  CHECK(raises("pare.prune.105", [&] { prune(pare::Pruner{.latency = pare::Ratio{0.9999}}); }));
  CHECK(raises("pare.prune.106", [&] { prune(pare::Pruner{.keep = {"*"}}); }));
  CHECK(raises("pare.prune.107",
               [&] { static_cast<void>(pare::apply(pare::Pruner{.importance = pare::Taylor{}}, fixture.model)); }));
  struct NotANumber {
    at::Tensor operator()(const pare::SliceView& view) const { return view.weight.sum(1) * std::nan(""); }
  };
  CHECK(raises("pare.prune.103", [&] { prune(pare::Pruner{.importance = NotANumber{}}); }));
  CHECK(fixture.model(torch::ones({1, 3, 8, 8})).equal(outputs));
  CHECK(kept(fixture.model, "stem.weight") == 16);
}

TEST_CASE("shuffled channels leave every group alike, and the live module follows", "[pruner]") {
  struct Shuffled : torch::nn::Module {
    torch::nn::Conv2d first{torch::nn::Conv2dOptions(3, 16, 3)}, second{torch::nn::Conv2dOptions(16, 8, 1)};
    Shuffled() {
      register_module("first", first);
      register_module("second", second);
      eval();
    }
    torch::Tensor forward(const torch::Tensor& x) { return second(torch::channel_shuffle(torch::relu(first(x)), 4)); }
  };
  torch::manual_seed(0);
  Shuffled net;
  const auto x = torch::randn({2, 3, 6, 6});
  const auto model = pare::capture(net, x);
  const auto pruned = pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = 30_pct}, model).model;
  CHECK(kept(pruned, "first.weight") == 12);
  CHECK(kept(pruned, "second.weight", 1) == 12);
  pare::commit(pruned, net);
  CHECK(torch::allclose(net.forward(x), pruned(x), 0, 1e-6));
}

TEST_CASE("channels that a window slides over stay, whatever is asked of them", "[pruner]") {
  struct Spread : torch::nn::Module {
    torch::nn::Linear fc1{16, 64}, fc2{8 * 15, 10};
    torch::nn::Conv1d conv{torch::nn::Conv1dOptions(1, 8, 5).stride(4)};
    Spread() {
      register_module("fc1", fc1);
      register_module("conv", conv);
      register_module("fc2", fc2);
      eval();
    }
    torch::Tensor forward(const torch::Tensor& x) { return fc2(torch::relu(conv(fc1(x).unsqueeze(1))).flatten(1)); }
  };
  Spread net;
  const auto model = pare::capture(net, torch::randn({2, 16}));
  const auto pruned = pare::apply(pare::Pruner{.importance = pare::L2{}, .ratio = 50_pct}, model);
  CHECK(kept(pruned.model, "fc1.weight") == 64);
  CHECK(kept(pruned.model, "conv.weight") == 4);
  CHECK(pruned.report.rows("fc1.weight:0").front().reason.find("slides over them") != std::string::npos);
  CHECK(raises("pare.prune.105", [&] {
    (void)pare::apply(pare::Pruner{.importance = pare::L2{}, .group_ratios = {{"fc1.weight:0", 4_pct}}}, model);
  }));
}

TEST_CASE("a budget of measured latency is searched with compiled models", "[pruner]") {
  Fixture fixture;
  const auto pruned = pare::apply(pare::Pruner{.importance = pare::L2{},
                                               .latency = 5_pct,
                                               .latency_threads = 1,
                                               .latency_inputs = {torch::randn({256, 3, 8, 8})},
                                               .reconstruct = false,
                                               .recalibrate = false},
                                  fixture.model);
  CHECK(pare::Cost(pruned.model).macs() < pare::Cost(fixture.model).macs());
  const at::Tensor outputs = pruned.model(torch::randn({3, 3, 8, 8}));
  CHECK(outputs.isfinite().all().item<bool>());
}

TEST_CASE("channels leave on a schedule while the user's own loop trains the live module", "[pruner]") {
  Fixture fixture;
  auto& net = fixture.net;
  torch::optim::Adam optimizer(net.parameters(), torch::optim::AdamOptions(1e-2));
  const pare::Schedule schedule{.to = 0.5, .begin = 0, .end = 6, .every = 2};
  double gone = 0;
  for (int step = 0; step < 9; ++step) {
    net.train();
    optimizer.zero_grad();
    net.forward(torch::randn({4, 3, 8, 8})).square().mean().backward();
    optimizer.step();
    if (!schedule.due(step) || schedule.at(step) <= gone) continue;
    const auto share = (schedule.at(step) - gone) / (1 - gone);
    gone = schedule.at(step);
    net.eval();
    const auto model = pare::capture(net, torch::randn({2, 3, 8, 8}));
    const pare::Pruner pruner{.importance = pare::L2{}, .ratio = pare::Ratio{share}};
    pare::commit(pare::apply(pruner, model).model, net, optimizer);
  }
  CHECK(std::abs(net.stem->weight.size(0) - 8) <= 1);
  CHECK(std::abs(net.wide->weight.size(0) - 12) <= 1);
  CHECK(net.stem->options.out_channels() == net.stem->weight.size(0));
  CHECK(net.forward(torch::randn({2, 3, 8, 8})).isfinite().all().item<bool>());
}
