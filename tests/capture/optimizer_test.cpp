// Channels that contribute nothing are taken away in the middle of a training: what follows must be what it would have
// been.
#include <torch/torch.h>

#include "pare/capture/commit.hpp"
#include "pare/capture/hand_over.hpp"
#include "pare/graph/rewriter.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
namespace optim = torch::optim;

// Sums over fewer (zero) terms are taken in another order; in double precision nothing of that grows to be seen.
constexpr double kSameTrajectory = 1e-8;
const std::vector<std::int64_t> kKept{0, 1, 3, 4, 5, 7};

struct Net : nn::Module {
  Net() {
    const torch::NoGradGuard no_grad;
    torch::manual_seed(3);
    first = register_module("first", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1).bias(false)));
    norm = register_module("norm", nn::BatchNorm2d(8));
    second = register_module("second", nn::Conv2d(nn::Conv2dOptions(8, 6, 3)));
    head = register_module("head", nn::Linear(6, 4));
    for (const std::int64_t dead : {2, 6}) {
      first->weight[dead].zero_();
      norm->weight[dead].zero_();
      second->weight.select(1, dead).zero_();
    }
    to(torch::kDouble);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return head(torch::relu(second(torch::relu(norm(first(x))))).mean({2, 3}));
  }
  nn::Conv2d first{nullptr}, second{nullptr};
  nn::BatchNorm2d norm{nullptr};
  nn::Linear head{nullptr};
};

using MakeOptimizer = std::function<std::unique_ptr<optim::Optimizer>(std::vector<torch::Tensor>)>;

double step(Net& net, optim::Optimizer& optimizer, int number) {
  torch::manual_seed(100 + number);
  const auto x = torch::randn({8, 3, 6, 6}, torch::kDouble);
  const auto y = torch::randint(4, {8});
  net.train();
  const auto closure = [&] {
    optimizer.zero_grad();
    auto loss = nn::functional::cross_entropy(net.forward(x), y);
    loss.backward();
    return loss;
  };
  return optimizer.step(closure).item<double>();
}

enum class After { Unpruned, Remapped, Forgotten };

constexpr int kBefore = 4, kAfter = 6;

// Takes the dead channels out.
void narrow(pare::Model& model) {
  pare::Rewriter rewriter(model);
  for (const auto* path : {"first.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"})
    rewriter.narrow(path, 0, kKept);
  rewriter.narrow("second.weight", 1, kKept);
}

// The losses after the pruning.
std::vector<double> trajectory(const MakeOptimizer& make, After after) {
  Net net;
  auto optimizer = make(net.parameters());
  for (int i = 0; i < kBefore; ++i) step(net, *optimizer, i);
  if (after != After::Unpruned) {
    net.eval();
    auto model = pare::capture(net, torch::randn({2, 3, 6, 6}, torch::kDouble));
    narrow(model);
    if (after == After::Remapped) {
      pare::commit(model, net, *optimizer);
    } else {
      pare::commit(model, net);
      optimizer = make(net.parameters());  // what one does without: start the optimizer afresh
    }
  }
  std::vector<double> losses;
  for (int i = 0; i < kAfter; ++i) losses.push_back(step(net, *optimizer, kBefore + i));
  return losses;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

std::vector<std::pair<std::string, MakeOptimizer>> optimizers() {
  using P = std::vector<torch::Tensor>;
  return {
      {"SGD",
       [](P p) { return std::make_unique<optim::SGD>(p, optim::SGDOptions(0.1).momentum(0.9).weight_decay(1e-3)); }},
      {"Adam", [](P p) { return std::make_unique<optim::Adam>(p, optim::AdamOptions(1e-2)); }},
      {"Adam with amsgrad",
       [](P p) { return std::make_unique<optim::Adam>(p, optim::AdamOptions(1e-2).amsgrad(true)); }},
      {"AdamW", [](P p) { return std::make_unique<optim::AdamW>(p, optim::AdamWOptions(1e-2).weight_decay(0.05)); }},
      {"AdamW with amsgrad",
       [](P p) { return std::make_unique<optim::AdamW>(p, optim::AdamWOptions(1e-2).amsgrad(true)); }},
      {"RMSprop",
       [](P p) {
         return std::make_unique<optim::RMSprop>(p, optim::RMSpropOptions(1e-3).momentum(0.5).centered(true));
       }},
      {"Adagrad", [](P p) { return std::make_unique<optim::Adagrad>(p, optim::AdagradOptions(1e-2)); }},
      {"LBFGS", [](P p) { return std::make_unique<optim::LBFGS>(p, optim::LBFGSOptions(0.1).max_iter(3)); }},
  };
}

}  // namespace

TEST_CASE("pruning channels that are zero leaves the training that follows as it was", "[commit]") {
  for (const auto& [name, make] : optimizers()) {
    DYNAMIC_SECTION(name) {
      const auto unpruned = trajectory(make, After::Unpruned);
      CHECK(distance(unpruned, trajectory(make, After::Remapped)) < kSameTrajectory);
      // The test would see a state that did not come along.
      CHECK(distance(unpruned, trajectory(make, After::Forgotten)) > 1e4 * kSameTrajectory);
    }
  }
}

TEST_CASE("LBFGS forgets steps along which nothing curves upwards without the channels that left", "[commit]") {
  Net net;
  optim::LBFGS optimizer(net.parameters(), optim::LBFGSOptions(0.1).max_iter(3));
  step(net, optimizer, 0);
  const auto history = [&]() -> optim::LBFGSParamState& {
    return dynamic_cast<optim::LBFGSParamState&>(*optimizer.state().at(net.first->weight.unsafeGetTensorImpl()));
  };
  // Curved upwards by what channel 2 of the first layer has, downwards by all the rest.
  const auto along = torch::ones_like(history().d());
  auto change = -0.001 * along;
  change.slice(0, 2 * 27, 3 * 27).fill_(100);
  history().old_dirs().push_back(change);
  history().old_stps().push_back(along);
  history().ro().push_back(change.dot(along).reciprocal());
  const auto before = history().old_dirs().size();
  net.eval();
  auto model = pare::capture(net, torch::randn({2, 3, 6, 6}, torch::kDouble));
  narrow(model);
  const auto committed = pare::commit(model, net, optimizer);
  CHECK(history().old_dirs().size() == before - 1);
  CHECK(history().old_stps().size() == before - 1);
  CHECK(history().ro().size() == before - 1);
  for (std::size_t i = 0; i + 1 < before; ++i)
    CHECK(history().ro()[i].item<double>() ==
          Approx(1 / history().old_dirs()[i].dot(history().old_stps()[i]).item<double>()));
  REQUIRE(committed.notes().size() == 2);
  CHECK(committed.notes()[1].find("1 of its steps dropped") != std::string::npos);
  CHECK(std::isfinite(step(net, optimizer, 1)));
}

TEST_CASE("without the optimizer a commit leaves its state behind", "[commit]") {
  Net net;
  optim::Adam optimizer(net.parameters(), optim::AdamOptions(1e-2));
  step(net, optimizer, 0);
  net.eval();
  auto model = pare::capture(net, torch::randn({2, 3, 6, 6}, torch::kDouble));
  narrow(model);
  pare::commit(model, net);
  CHECK_THROWS(step(net, optimizer, 1));  // moments of eight channels, gradients of six
}

TEST_CASE("an optimizer's own kind of state is refused unless it can be narrowed", "[commit]") {
  struct OwnState : optim::OptimizerCloneableParamState<OwnState> {
    torch::Tensor average;
  };
  Net net;
  net.eval();
  optim::SGD optimizer(net.parameters(), optim::SGDOptions(0.1));
  auto state = std::make_unique<OwnState>();
  state->average = torch::arange(8, torch::kDouble).reshape({8, 1, 1, 1}).expand_as(net.first->weight).clone();
  optimizer.state()[net.first->weight.unsafeGetTensorImpl()] = std::move(state);
  auto model = pare::capture(net, torch::randn({2, 3, 6, 6}, torch::kDouble));
  narrow(model);
  CHECK(raises("pare.commit.121", [&] { pare::commit(model, net, optimizer); }));
  CHECK(net.first->weight.size(0) == 8);
  pare::commit(model, net, optimizer, {.remap_state = [](optim::OptimizerParamState& held, const auto& narrow) {
                 auto* own = dynamic_cast<OwnState*>(&held);
                 if (own) own->average = narrow(own->average);
                 return own != nullptr;
               }});
  const auto& kept = dynamic_cast<OwnState&>(*optimizer.state().at(net.first->weight.unsafeGetTensorImpl()));
  CHECK(torch::equal(kept.average.flatten(1).select(1, 0),
                     torch::tensor({0.0, 1.0, 3.0, 4.0, 5.0, 7.0}, torch::kDouble)));
}

namespace {

double step(const pare::Model& model, optim::Optimizer& optimizer, int number) {
  torch::manual_seed(100 + number);
  const auto x = torch::randn({8, 3, 6, 6}, torch::kDouble);
  const auto y = torch::randint(4, {8});
  const auto closure = [&] {
    optimizer.zero_grad();
    auto loss = nn::functional::cross_entropy(model(x), y);
    loss.backward();
    return loss;
  };
  return optimizer.step(closure).item<double>();
}

// The losses of a training of the Model itself.
std::vector<double> model_trajectory(const MakeOptimizer& make, bool prune, bool take_back) {
  Net net;
  net.eval();
  auto model = pare::capture(net, torch::randn({2, 3, 6, 6}, torch::kDouble));
  model.detach_weights();
  auto optimizer = make(model.parameters());
  model.train();
  for (int i = 0; i < kBefore; ++i) step(model, *optimizer, i);
  if (prune) {
    auto smaller = model;
    narrow(smaller);
    auto handed = pare::hand_over(*optimizer, model, smaller);
    CHECK(handed.tensors().size() == 4);
    if (take_back) {
      handed.roll_back();
    } else {
      model = smaller;
    }
  }
  std::vector<double> losses;
  for (int i = 0; i < kAfter; ++i) losses.push_back(step(model, *optimizer, kBefore + i));
  return losses;
}

}  // namespace

TEST_CASE("an optimizer that trains the model goes on with a smaller one, and back", "[commit]") {
  for (const auto& [name, make] : optimizers()) {
    DYNAMIC_SECTION(name) {
      const auto unpruned = model_trajectory(make, false, false);
      CHECK(distance(unpruned, model_trajectory(make, true, false)) < kSameTrajectory);
      CHECK(distance(unpruned, model_trajectory(make, true, true)) == 0);
    }
  }
}

TEST_CASE("an optimizer is not handed over to a model of another line", "[commit]") {
  Net net, other;
  net.eval();
  other.eval();
  auto model = pare::capture(net, torch::randn({2, 3, 6, 6}, torch::kDouble));
  auto stranger = pare::capture(other, torch::randn({2, 3, 6, 6}, torch::kDouble));
  model.detach_weights();
  auto smaller = model;
  narrow(smaller);
  optim::Adam optimizer(smaller.parameters(), optim::AdamOptions(1e-2));
  const auto held = optimizer.param_groups()[0].params();
  CHECK(raises("pare.commit.122", [&] { pare::hand_over(optimizer, smaller, stranger); }));
  for (std::size_t i = 0; i < held.size(); ++i) CHECK(held[i].is_same(optimizer.param_groups()[0].params()[i]));
}
