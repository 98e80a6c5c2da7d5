// Targets of `Pruner` that its other options leave out of reach.
#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/pruner.hpp"
#include "tests/support/raises.hpp"

using namespace pare::literals;

namespace {

namespace nn = torch::nn;

pare::Model two_groups() {
  torch::manual_seed(0);
  nn::Sequential net(nn::Linear(8, 16), nn::ReLU(), nn::Linear(16, 16), nn::ReLU(), nn::Linear(16, 4));
  net->eval();
  return pare::capture(net, torch::randn({2, 8}));
}

template <class Importance>
pare::Model pruned(const pare::Model& model, const pare::Pruner<Importance>& pruner) {
  return pare::apply(pruner, model).model;
}

}  // namespace

TEST_CASE("a share of nothing cannot be met", "[pruner]") {
  struct Factors : nn::Module {
    nn::Embedding users{50, 16}, items{40, 16};
    Factors() {
      register_module("users", users);
      register_module("items", items);
      eval();
    }
    torch::Tensor forward(const torch::Tensor& a, const torch::Tensor& b) { return (users(a) * items(b)).sum(-1); }
  };
  Factors net;
  const auto ids = torch::randint(0, 40, {6});
  const auto model = pare::capture(net, std::make_tuple(ids, ids.flip(0)));
  CHECK(raises("pare.prune.105", [&] { (void)pruned(model, pare::Pruner{}); }));
  for (const auto scope : {pare::Scope::PerGroup, pare::Scope::Global, pare::Scope::Budgeted})
    CHECK(raises("pare.prune.105",
                 [&] { (void)pruned(model, pare::Pruner{.importance = pare::L2{}, .macs = 10_pct, .scope = scope}); }));
  CHECK(pruned(model, pare::Pruner{.parameters = 10_pct}).weight("users.weight").size(1) == 14);
  CHECK(pruned(model, pare::Pruner{.ratio = 50_pct}).weight("users.weight").size(1) == 8);
}

TEST_CASE("a share of the units that other options keep cannot be met", "[pruner]") {
  const auto model = two_groups();
  using Pruner = pare::Pruner<pare::L2>;
  const auto refused = [&](const Pruner& pruner) {
    return raises("pare.prune.105", [&] { (void)pruned(model, pruner); });
  };
  CHECK(refused({.ratio = 95_pct}));
  CHECK(refused({.ratio = 95_pct, .scope = pare::Scope::Global}));
  CHECK(refused({.ratio = 60_pct, .scope = pare::Scope::Global, .max_ratio = 50_pct}));
  CHECK(refused({.ratio = 60_pct, .scope = pare::Scope::Isomorphic, .max_ratio = 50_pct}));
  CHECK(refused({.ratio = 60_pct, .min_channels = 8}));
  CHECK(refused({.group_ratios = {{"0.weight:0", 90_pct}}, .max_ratio = 50_pct}));
  CHECK(path_raised([&] { (void)pruned(model, Pruner{.ratio = 95_pct}); }) == "0.weight:0");
}

TEST_CASE("rounding to whole units meets a share of them", "[pruner]") {
  const auto model = two_groups();
  using Pruner = pare::Pruner<pare::L2>;
  const auto left = [&](const Pruner& pruner) { return pruned(model, pruner).weight("0.weight").size(0); };
  CHECK(left({.ratio = 90_pct}) == 2);  // 14.4 of 16 units
  CHECK(left({.ratio = 50_pct, .max_ratio = 50_pct}) == 8);
  CHECK(left({.ratio = 55_pct, .max_ratio = 55_pct}) == 8);  // 8.8 may go: 9 would be nearer
  CHECK(left({.ratio = 1_pct}) == 16);
  CHECK(left({.ratio = 70_pct, .round_to = 8}) == 8);
  CHECK(left({.ratio = 90_pct, .round_to = 8}) == 8);  // 14.4 units, of which a step of 8 can go
  CHECK(left({.group_ratios = {{"0.weight:0", 55_pct}}, .max_ratio = 55_pct}) == 8);
}

TEST_CASE("a group that was asked for by name goes, or it is an error", "[pruner]") {
  const auto model = two_groups();
  using Pruner = pare::Pruner<pare::L2>;
  const auto call = [&](const Pruner& pruner) { return [&, pruner] { (void)pruned(model, pruner); }; };
  const Pruner frozen{.group_ratios = {{"4.weight:0", 50_pct}}};
  CHECK(raises("pare.prune.105", call(frozen)));
  CHECK(path_raised(call(frozen)) == "4.weight:0");
  CHECK(raises("pare.prune.105", call({.group_ratios = {{"0.weight:0", 50_pct}}, .keep = {"0"}})));
  CHECK(raises("pare.prune.102", call({.group_ratios = {{"0.weight:0", 50_pct}, {"0.weight:0", 25_pct}}})));
}
