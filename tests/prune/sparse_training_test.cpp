#include "pare/prune/sparse_training.hpp"

#include <torch/torch.h>

#include <cmath>

#include "pare/capture/capture.hpp"
#include "pare/numerics/schedule.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
namespace optim = torch::optim;

nn::Sequential make_net() {
  torch::manual_seed(5);
  return nn::Sequential(nn::Linear(12, 24), nn::ReLU(), nn::Linear(24, 4));
}

pare::Masks half(const nn::Module& net) {
  torch::manual_seed(6);
  pare::Masks masks;
  for (const auto& [path, tensor] : pare::Masks::named_parameters(net))
    if (tensor.dim() == 2) masks.set(path, torch::rand_like(tensor).gt(0.5));
  return masks;
}

// A training loop that has never heard of masks.
void train(nn::Sequential& net, optim::Optimizer& optimizer, int steps) {
  for (int i = 0; i < steps; ++i) {
    torch::manual_seed(50 + i);
    const auto x = torch::randn({32, 12});
    const auto y = x.narrow(1, 0, 4).argmax(1);
    const auto closure = [&] {
      optimizer.zero_grad();
      auto loss = nn::functional::cross_entropy(net->forward(x), y);
      loss.backward();
      return loss;
    };
    optimizer.step(closure);
  }
}

bool respects(const nn::Module& net, const pare::Masks& masks) {
  for (const auto& [path, tensor] : pare::Masks::named_parameters(net))
    if (const auto* mask = masks.find(path))
      if (tensor.masked_select(mask->logical_not()).ne(0).any().item<bool>()) return false;
  return true;
}

}  // namespace

TEST_CASE("masks survive the training of every optimizer", "[sparse-training]") {
  const auto check = [](const char* name, auto make) {
    DYNAMIC_SECTION(name) {
      auto net = make_net();
      auto optimizer = make(net->parameters());
      train(net, *optimizer, 3);  // moments exist before there are masks
      const auto before = net->parameters()[0].detach().clone();
      {
        const auto masks = half(*net);
        const pare::SparseTraining training{*net, masks, *optimizer};
        train(net, *optimizer, 6);
        CHECK(respects(*net, masks));
        CHECK(training.masks().sparsity() == Approx(0.5).margin(0.1));
        CHECK_FALSE(torch::allclose(net->parameters()[0], before * *masks.find("0.weight")));
        CHECK(pare::Masks::of(*net).sparsity() == Approx(masks.sparsity()));
      }
      const auto masks = pare::Masks::of(*net);
      train(net, *optimizer, 2);
      CHECK_FALSE(respects(*net, masks));  // without it, training fills the zeros again
    }
  };
  using P = std::vector<torch::Tensor>;
  check("SGD",
        [](P p) { return std::make_unique<optim::SGD>(p, optim::SGDOptions(0.1).momentum(0.9).weight_decay(0.01)); });
  check("Adam", [](P p) { return std::make_unique<optim::Adam>(p, optim::AdamOptions(1e-2).amsgrad(true)); });
  check("AdamW", [](P p) { return std::make_unique<optim::AdamW>(p, optim::AdamWOptions(1e-2)); });
  check("RMSprop", [](P p) { return std::make_unique<optim::RMSprop>(p, optim::RMSpropOptions(1e-3).momentum(0.9)); });
  check("Adagrad", [](P p) { return std::make_unique<optim::Adagrad>(p, optim::AdagradOptions(1e-2)); });
  check("LBFGS", [](P p) { return std::make_unique<optim::LBFGS>(p, optim::LBFGSOptions(0.1).max_iter(3)); });
}

TEST_CASE("gradual pruning follows its schedule and keeps what it learned", "[sparse-training]") {
  auto net = make_net();
  optim::SGD optimizer(net->parameters(), optim::SGDOptions(0.1).momentum(0.9));
  pare::Masks dense;
  for (const auto& [path, tensor] : pare::Masks::named_parameters(*net))
    if (tensor.dim() == 2) dense.set(path, torch::ones_like(tensor, torch::kBool));
  pare::SparseTraining training{*net, dense, optimizer};
  const pare::Schedule schedule{.to = 0.75, .begin = 0, .end = 10, .every = 2};
  double last = 0;
  for (int step = 0; step <= 10; ++step) {
    train(net, optimizer, 1);
    if (schedule.due(step)) training.prune({schedule.at(step)});
    CHECK(training.masks().sparsity() >= last);
    last = training.masks().sparsity();
  }
  CHECK(last == Approx(0.75).margin(0.01));
  const auto scores = training.movement();
  training.prune({0.85}, scores);
  CHECK(training.masks().sparsity() == Approx(0.85).margin(0.01));
  CHECK(raises("pare.prune.201", [&] { training.prune({1.0}); }));
}

TEST_CASE("scores that say nothing of the masked parameters are refused and change nothing", "[sparse-training]") {
  auto net = make_net();
  optim::SGD optimizer(net->parameters(), optim::SGDOptions(0.1));
  pare::SparseTraining training{*net, half(*net), optimizer};
  const auto before = training.masks();
  using Scores = std::map<std::string, at::Tensor>;
  const auto refused = [&](const Scores& scores) {
    return raises("pare.prune.211", [&] { training.prune({0.9}, scores); });
  };
  const auto fitting = torch::rand({24, 12});
  CHECK(refused({}));
  CHECK(refused({{"nowhere", fitting}}));
  CHECK(refused({{"0.weight", fitting}, {"0.bias", torch::rand({24})}}));  // not masked
  CHECK(refused({{"0.weight", torch::Tensor()}}));
  CHECK(refused({{"0.weight", torch::rand({24})}}));
  auto nan = fitting.clone();
  nan[0][0] = std::nan("");
  CHECK(refused({{"0.weight", nan}}));
  for (const auto* path : {"0.weight", "2.weight"})
    CHECK(torch::equal(*training.masks().find(path), *before.find(path)));
  training.prune({0.9}, {{"0.weight", fitting}});
  CHECK(training.masks().find("0.weight")->sum().item<int>() < 30);
  CHECK(torch::equal(*training.masks().find("2.weight"), *before.find("2.weight")));
}

TEST_CASE("regrowing moves zeros to where the gradient is", "[sparse-training]") {
  auto net = make_net();
  optim::SGD optimizer(net->parameters(), optim::SGDOptions(0.05).momentum(0.9));
  const auto masks = half(*net);
  pare::SparseTraining training{*net, masks, optimizer};
  CHECK(raises("pare.prune.212", [&] { training.regrow({0.3}); }));
  train(net, optimizer, 3);
  training.regrow({0.3});
  const auto moved = training.masks();
  CHECK(moved.sparsity() == Approx(masks.sparsity()));
  CHECK_FALSE(torch::equal(*moved.find("0.weight"), *masks.find("0.weight")));
  const auto grown = moved.find("0.weight")->logical_and(masks.find("0.weight")->logical_not());
  CHECK(net->parameters()[0].masked_select(grown).eq(0).all().item<bool>());
  train(net, optimizer, 3);
  CHECK(net->parameters()[0].masked_select(grown).ne(0).any().item<bool>());
  CHECK(respects(*net, moved));
}

TEST_CASE("masks that do not fit are refused and change nothing", "[sparse-training]") {
  auto net = make_net();
  optim::SGD optimizer(net->parameters(), optim::SGDOptions(0.1));
  const auto before = net->parameters()[0].detach().clone();
  pare::Masks wrong;
  wrong.set("0.weight", torch::zeros({3, 3}, torch::kBool));
  CHECK(raises("pare.prune.211", [&] { pare::SparseTraining(*net, wrong, optimizer); }));
  CHECK(raises("pare.prune.211", [&] { wrong.apply(pare::Masks::named_parameters(*net)); }));
  pare::Masks unknown;
  unknown.set("9.weight", torch::zeros({3, 3}, torch::kBool));
  CHECK(raises("pare.prune.211", [&] { pare::SparseTraining(*net, unknown, optimizer); }));
  CHECK(torch::equal(net->parameters()[0], before));
}
