// Pruned models that the live module cannot follow, and masks that were left on parameters that shrank.
#include <torch/torch.h>

#include <algorithm>
#include <string>
#include <vector>

#include "pare/capture/capture.hpp"
#include "pare/capture/commit.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/committable_groups.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/prune/sparse_training.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

// Scales its hidden channels by a tensor; registered or not.
struct CommitErrorNet : torch::nn::Module {
  explicit CommitErrorNet(bool registered) {
    torch::manual_seed(1);
    a = register_module("a", torch::nn::Linear(4, 8));
    b = register_module("b", torch::nn::Linear(8, 2));
    scale = torch::rand({8}) + 1;
    if (registered) scale = register_buffer("scale", scale);
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) { return b(torch::relu(a(x)) * scale); }
  torch::nn::Linear a{nullptr}, b{nullptr};
  torch::Tensor scale;
};

pare::Model commit_error_half(const pare::Model& model) {
  return pare::apply(pare::Pruner{.ratio = pare::Ratio{0.5}}, model).model;
}

}  // namespace

TEST_CASE("channels of a tensor that the module never registered are not committed", "[prune]") {
  const torch::NoGradGuard no_grad;
  CommitErrorNet net(/*registered=*/false);
  const auto x = torch::randn({3, 4}), expected = net.forward(x);
  const auto model = pare::capture(net, x), pruned = commit_error_half(model);
  CHECK(pruned.weight("constant.0").sizes() == std::vector<std::int64_t>{4});
  const auto commit = [&] { pare::commit(pruned, net); };
  CHECK(raises("pare.commit.104", commit));
  CHECK(path_raised(commit) == "constant.0");
  CHECK(net.a->options.out_features() == 8);
  CHECK(net.scale.size(0) == 8);
  CHECK(torch::equal(net.forward(x), expected));
  CHECK(torch::equal(model(x), expected));
  // Asked before, it is told why that group stays.
  const auto groups = pare::committable_groups(model, net);
  CHECK(std::ranges::any_of(groups, [](const pare::ChannelGroup& group) {
    return group.name == "a.weight:0" && group.frozen.find("constant.0") != std::string::npos;
  }));

  // Where nothing else is left to prune, the error says it.
  try {
    static_cast<void>(pare::apply(pare::Pruner{.ratio = pare::Ratio{0.5}, .commit_to = net}, model));
    FAIL("pruned what cannot be committed");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.prune.106");
    CHECK(std::string(error.what()).find("constant.0") != std::string::npos);
  }

  CommitErrorNet known(/*registered=*/true);
  const auto smaller = commit_error_half(pare::capture(known, x));
  pare::commit(smaller, known);
  CHECK(known.scale.size(0) == 4);
  CHECK(torch::allclose(known.forward(x), smaller(x), 1e-5, 1e-6));
}

TEST_CASE("masks kept over a commit that narrows are refused in the next backward pass", "[sparse-training]") {
  torch::manual_seed(2);
  torch::nn::Sequential net(torch::nn::Linear(4, 8), torch::nn::ReLU(), torch::nn::Linear(8, 2));
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  pare::Masks masks;
  for (const auto& [path, tensor] : pare::Masks::named_parameters(*net))
    if (tensor.dim() == 2) masks.set(path, torch::rand_like(tensor).gt(0.5));
  const auto x = torch::randn({3, 4});
  const auto backward = [&] {
    optimizer.zero_grad();
    net->forward(x).sum().backward();
  };
  {
    pare::SparseTraining training{*net, masks, optimizer};
    backward();
    optimizer.step();
    net->eval();
    pare::commit(commit_error_half(pare::capture(net, x)), *net, optimizer);
    net->train();
    std::vector<torch::Tensor> before;
    for (const auto& parameter : net->parameters()) before.push_back(parameter.detach().clone());
    CHECK(raises("pare.prune.213", backward));
    CHECK(path_raised(backward) == "2.weight");
    CHECK(raises("pare.prune.213", [&] { training.prune(pare::Ratio{0.9}); }));
    CHECK(raises("pare.prune.213", [&] { training.regrow(pare::Ratio{0.5}); }));
    for (std::size_t i = 0; i < before.size(); ++i) CHECK(torch::equal(net->parameters()[i], before[i]));
  }
  // Without it, or with another one for the parameters as they are, training goes on.
  CHECK_NOTHROW(backward());
  const pare::SparseTraining again{*net, pare::Masks::of(*net), optimizer};
  CHECK_NOTHROW(backward());
  optimizer.step();
  CHECK(net->parameters()[0].size(0) == 4);
}
