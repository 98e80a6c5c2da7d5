#include "pare/prune/sparsifier.hpp"

#include <torch/torch.h>

#include <cmath>

#include "pare/capture/commit.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/activation_magnitude.hpp"
#include "pare/prune/magnitude.hpp"
#include "pare/prune/movement.hpp"
#include "pare/prune/snip.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;

struct SparseNet : nn::Module {
  SparseNet() {
    torch::manual_seed(1);
    first = register_module("first", nn::Conv2d(nn::Conv2dOptions(4, 16, 3).padding(1).bias(false)));
    norm = register_module("norm", nn::BatchNorm2d(16));
    depthwise = register_module("depthwise", nn::Conv2d(nn::Conv2dOptions(16, 16, 3).groups(16)));
    second = register_module("second", nn::Conv2d(nn::Conv2dOptions(16, 16, 3)));
    head = register_module("head", nn::Linear(16, 5));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = torch::relu(depthwise(torch::relu(norm(first(x)))));
    return head(torch::relu(second(y)).mean({2, 3}));
  }
  nn::Conv2d first{nullptr}, depthwise{nullptr}, second{nullptr};
  nn::BatchNorm2d norm{nullptr};
  nn::Linear head{nullptr};
};

// Inputs that vary together, as those of a network do.
pare::Batches batches(int count = 4) {
  torch::manual_seed(2);
  const auto mixing = torch::randn({4, 4});
  std::vector<pare::Batch> all;
  for (int i = 0; i < count; ++i) {
    const auto smooth = torch::nn::functional::avg_pool2d(torch::randn({16, 4, 14, 14}),
                                                          torch::nn::functional::AvgPool2dFuncOptions(3).stride(1));
    all.push_back({torch::einsum("nchw,cd->ndhw", {smooth, mixing})});
  }
  return all;
}

double zeros(const pare::Model& model) {
  double zero = 0, total = 0;
  for (const auto* path : {"first.weight", "depthwise.weight", "second.weight", "head.weight"}) {
    zero += model.weight(path).eq(0).sum().item<double>();
    total += static_cast<double>(model.weight(path).numel());
  }
  return zero / total;
}

double error(const pare::Model& a, const pare::Model& b) {
  const torch::NoGradGuard no_grad;
  const auto x = (*batches(5).begin())[0];
  return ((a(x) - b(x)).square().sum() / a(x).var(0).sum() / 16).item<double>();
}

}  // namespace

TEST_CASE("weights that stay make up for those that go", "[sparsifier]") {
  SparseNet net;
  const auto model = pare::capture(net, torch::randn({2, 4, 12, 12}));
  const auto untouched = net.second->weight.detach().clone();
  const auto ours = pare::apply(pare::Sparsifier{.sparsity = {0.7}}, model, {.calibration = batches()});
  const auto plain = pare::apply(pare::Sparsifier{.importance = pare::Magnitude{},
                                                  .sparsity = {0.7},
                                                  .allocation = pare::SparsityAllocation::Global,
                                                  .update_weights = false},
                                 model);
  CHECK(zeros(ours.model) >= 0.7);
  CHECK(zeros(ours.model) < 0.75);
  CHECK(zeros(plain.model) == Approx(0.7).margin(0.001));
  INFO("errors " << error(model, ours.model) << " and " << error(model, plain.model));
  CHECK(error(model, ours.model) < 0.3 * error(model, plain.model));
  CHECK(torch::equal(net.second->weight, untouched));
  CHECK(ours.report.rows("second").front().figures.at("sparsity") ==
        Approx(ours.model.weight("second.weight").eq(0).to(torch::kDouble).mean().item<double>()));
  CHECK(ours.report.rows("speed").front().decision == pare::Decision::Declined);
  pare::commit(ours.model, net);
  const auto x = torch::randn({2, 4, 12, 12});
  CHECK(torch::equal(net.forward(x), ours.model(x)));
}

TEST_CASE("linear layers, which read their weights transposed, get what 1x1 convolutions get", "[sparsifier]") {
  torch::manual_seed(3);
  nn::Sequential linear(nn::Linear(12, 24), nn::ReLU(), nn::Linear(24, 24), nn::ReLU(), nn::Linear(24, 6));
  nn::Sequential pointwise(nn::Conv2d(12, 24, 1), nn::ReLU(), nn::Conv2d(24, 24, 1), nn::ReLU(), nn::Conv2d(24, 6, 1));
  const torch::NoGradGuard no_grad;
  for (auto& item : linear->named_parameters())
    pointwise->named_parameters()[item.key()].copy_(item.value().view_as(pointwise->named_parameters()[item.key()]));
  const auto x = torch::randn({256, 4}).matmul(torch::randn({4, 12})) + 0.3 * torch::randn({256, 12});
  const pare::Sparsifier sparsifier{.sparsity = {0.5}};
  const auto a = pare::apply(sparsifier, pare::capture(*linear, x), {.calibration = pare::Batches{x}});
  const auto pixels = x.view({256, 12, 1, 1});
  const auto b = pare::apply(sparsifier, pare::capture(*pointwise, pixels), {.calibration = pare::Batches{pixels}});
  for (const auto* layer : {"0", "2", "4"}) {
    INFO(layer);
    const auto path = std::string(layer) + ".weight";
    CHECK(a.report.rows(layer).front().figures.at("damage") ==
          Approx(b.report.rows(layer).front().figures.at("damage")).epsilon(1e-3));
    CHECK(torch::allclose(a.model.weight(path).flatten(), b.model.weight(path).flatten(), 1e-3, 1e-4));
  }
}

TEST_CASE("every criterion reaches its sparsity, alone and with the weights solved anew", "[sparsifier]") {
  SparseNet net;
  const auto model = pare::capture(net, torch::randn({2, 4, 12, 12}));
  const auto check = [&](const auto& importance) {
    double errors[2];
    for (const bool update : {false, true}) {
      const auto result = pare::apply(pare::Sparsifier{.importance = importance,
                                                       .sparsity = {0.5},
                                                       .allocation = pare::SparsityAllocation::Uniform,
                                                       .update_weights = update},
                                      model, {.calibration = batches()});
      CHECK(zeros(result.model) == Approx(0.5).margin(0.01));
      errors[update] = error(model, result.model);
    }
    CHECK(errors[1] < 0.5 * errors[0]);
  };
  check(pare::Magnitude{});
  check(pare::ActivationMagnitude{});
  check(pare::SparseGPT{});
  check(pare::Snip{});
  std::map<std::string, torch::Tensor> scores;
  for (const auto& [path, weight] : model.named_parameters()) scores[path] = weight.abs();
  check(pare::Movement{scores});
}

TEST_CASE("patterns: N of M and blocks along the input channels", "[sparsifier]") {
  SparseNet net;
  const auto model = pare::capture(net, torch::randn({2, 4, 12, 12}));
  const auto half = pare::apply(pare::Sparsifier{.pattern = pare::NofM{2, 4}}, model, {.calibration = batches()});
  const auto second = half.model.weight("second.weight");  // [16, 16, 3, 3]
  CHECK(second.ne(0).view({16, 4, 4, 3, 3}).sum(2).le(2).all().item<bool>());
  CHECK(second.eq(0).to(torch::kDouble).mean().item<double>() == Approx(0.5).margin(0.01));
  CHECK(half.report.rows("depthwise").front().decision == pare::Decision::Declined);
  CHECK(error(model, half.model) < 0.1);

  const auto blocks =
      pare::apply(pare::Sparsifier{.sparsity = {0.5}, .pattern = pare::Blocks{4, 4}, .keep_dense = {"head"}}, model,
                  {.calibration = batches()});
  const auto sums = blocks.model.weight("second.weight").ne(0).view({4, 4, 4, 4, 3, 3}).sum({1, 3});
  CHECK(sums.eq(0).logical_or(sums.eq(16)).all().item<bool>());
  CHECK(blocks.report.rows("head").front().reason == "kept dense on request");
}

TEST_CASE("a model in training mode is still in it when it is sparse", "[sparsifier]") {
  SparseNet net;
  auto model = pare::capture(net, torch::randn({2, 4, 12, 12}));
  const auto apart = pare::apply(pare::Sparsifier{.sparsity = {0.4}}, model, {.calibration = batches()}).model;
  model.train();
  auto sparse = pare::apply(pare::Sparsifier{.sparsity = {0.4}}, model, {.calibration = batches()}).model;
  CHECK(sparse.is_training());
  CHECK_FALSE(apart.is_training());
  sparse.eval();
  const auto x = torch::randn({2, 4, 12, 12});
  CHECK(torch::allclose(sparse(x), apart(x), 0, 1e-6));
}

TEST_CASE("a sparser run goes on from a sparse model, and quantizing keeps the zeros", "[sparsifier]") {
  SparseNet net;
  const auto model = pare::capture(net, torch::randn({2, 4, 12, 12}));
  const auto some = pare::apply(pare::Sparsifier{.sparsity = {0.4}}, model, {.calibration = batches()});
  const auto more = pare::apply(pare::Sparsifier{.sparsity = {0.7}}, some.model, {.calibration = batches()});
  CHECK(zeros(more.model) >= 0.7);
  const auto before = some.model.weight("second.weight").eq(0);
  CHECK(more.model.weight("second.weight").masked_select(before).abs().sum().item<float>() == 0);
  const auto int8 = pare::apply(pare::Quantizer{}, more.model, {.calibration = batches()});
  CHECK(int8.model.weight("second.weight")
            .eq(0)
            .logical_and(more.model.weight("second.weight").eq(0))
            .sum()
            .item<int>() == more.model.weight("second.weight").eq(0).sum().item<int>());
}

TEST_CASE("what cannot be pruned as asked is refused, and nothing changes", "[sparsifier]") {
  SparseNet net;
  const auto model = pare::capture(net, torch::randn({2, 4, 12, 12}));
  const pare::ContextOptions context{.calibration = batches()};
  CHECK(raises("pare.prune.201", [&] { (void)pare::apply(pare::Sparsifier{.sparsity = {1.0}}, model, context); }));
  CHECK(raises("pare.prune.201", [&] {
    (void)pare::apply(pare::Sparsifier{.pattern = pare::NofM{4, 4}}, model, context);
  }));
  CHECK(raises("pare.prune.202",
               [&] { (void)pare::apply(pare::Sparsifier{.keep_dense = {"nowhere"}}, model, context); }));
  CHECK(raises("pare.prune.204", [&] { (void)pare::apply(pare::Sparsifier{.keep_dense = {"*"}}, model, context); }));
  CHECK(raises("pare.pass.102", [&] { (void)pare::apply(pare::Sparsifier{}, model); }));
  struct Broken {
    at::Tensor operator()(const pare::PrunableWeight& layer) const { return layer.weight / 0 * 0; }
  };
  struct Misshapen {
    at::Tensor operator()(const pare::PrunableWeight& layer) const { return layer.weight.sum(0); }
  };
  CHECK(raises("pare.prune.203", [&] { (void)pare::apply(pare::Sparsifier{.importance = Broken{}}, model, context); }));
  CHECK(raises("pare.prune.203", [&] {
    (void)pare::apply(pare::Sparsifier{.importance = Misshapen{}, .allocation = pare::SparsityAllocation::Global},
                      model, context);
  }));
  struct Silent {
    at::Tensor operator()(const pare::PrunableWeight&) const { return {}; }
  };
  CHECK(raises("pare.prune.203", [&] { (void)pare::apply(pare::Sparsifier{.importance = Silent{}}, model, context); }));
}

TEST_CASE("calibration batches without numbers are refused by every allocation", "[sparsifier]") {
  SparseNet net;
  const auto model = pare::capture(net, torch::randn({2, 4, 12, 12}));
  auto nan = torch::randn({2, 4, 12, 12});
  nan[0][0][0][0] = std::nan("");
  for (const auto& batch : {nan, torch::randn({0, 4, 12, 12})}) {
    const pare::ContextOptions context{.calibration = pare::Batches{batch}};
    for (const auto allocation :
         {pare::SparsityAllocation::Measured, pare::SparsityAllocation::Uniform, pare::SparsityAllocation::Global}) {
      CHECK(raises("pare.prune.203",
                   [&] { (void)pare::apply(pare::Sparsifier{.allocation = allocation}, model, context); }));
      CHECK(raises("pare.prune.203", [&] {
        (void)pare::apply(pare::Sparsifier{.importance = pare::Magnitude{}, .allocation = allocation}, model, context);
      }));
    }
    CHECK(raises("pare.prune.203", [&] {
      (void)pare::apply(pare::Sparsifier{.importance = pare::Magnitude{}, .update_weights = false}, model, context);
    }));
  }
}

TEST_CASE("a loss for gradients is one number that depends on the weights", "[sparsifier]") {
  SparseNet net;
  const auto model = pare::capture(net, torch::randn({2, 4, 12, 12}));
  using Outputs = std::vector<at::Tensor>;
  const std::vector<pare::PruningLoss> wrong{[](const Outputs&, std::size_t) { return at::Tensor(); },
                                             [](const Outputs& outputs, std::size_t) { return outputs[0]; },
                                             [](const Outputs&, std::size_t) { return at::ones({}); },
                                             [](const Outputs& outputs, std::size_t) {
                                               return (outputs[0] - at::ones({7, 7})).sum();
                                             }};
  for (const auto& loss : wrong)
    CHECK(raises("pare.prune.203", [&] {
      (void)pare::apply(pare::Sparsifier{.importance = pare::Snip{}, .loss = loss}, model, {.calibration = batches()});
    }));
}
