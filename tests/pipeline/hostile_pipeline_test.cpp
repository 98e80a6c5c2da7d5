// Models, labels and losses that a climb is not made for, and budgets that nothing reaches.
#include <torch/torch.h>

#include <cmath>

#include "pare/analysis/weight_storage.hpp"
#include "pare/capture/capture.hpp"
#include "pare/pipeline/auto.hpp"
#include "pare/pipeline/metric.hpp"
#include "pare/pipeline/optimization_pipeline.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

struct ClassOnly : nn::Module {
  ClassOnly() { fc = register_module("fc", nn::Linear(8, 4)); }
  torch::Tensor forward(const torch::Tensor& x) { return fc(x).argmax(1); }
  nn::Linear fc{nullptr};
};

// One weight, read from either side.
struct TiedSides : nn::Module {
  TiedSides() { fc = register_module("fc", nn::Linear(8, 12)); }
  torch::Tensor forward(const torch::Tensor& x) { return torch::matmul(torch::relu(fc(x)), fc->weight); }
  nn::Linear fc{nullptr};
};

struct HostileNet : nn::Sequential {
  HostileNet() : nn::Sequential(nn::Linear(8, 6), nn::BatchNorm1d(6), nn::ReLU(), nn::Linear(6, 4)) {}
};

// Minus the mean square difference from what the model answers.
pare::SampleScores hostile_scores(const pare::Model& model, const torch::Tensor& x) {
  const torch::NoGradGuard no_grad;
  const auto expected = model(x).to(torch::kDouble).reshape({x.size(0), -1}).clone();
  return [=](const pare::Predictor& predict) {
    return -(predict({x})[0].to(torch::kDouble).reshape({x.size(0), -1}) - expected).square().mean(1);
  };
}

pare::AutoOptions hostile_options(const pare::Model& model, const torch::Tensor& x) {
  return {.calibration = x, .scores = hostile_scores(model, x), .seconds = 0.005};
}

}  // namespace

TEST_CASE("a climb ends where nothing can be pruned, or nothing has weights, and says what is missing", "[auto]") {
  torch::manual_seed(0);
  const auto x = torch::randn({16, 8});
  nn::Sequential one{nn::Linear(8, 4)}, none{nn::ReLU()}, narrow{nn::Linear(8, 3), nn::ReLU(), nn::Linear(3, 4)};
  for (auto net : std::vector{one, none, narrow}) {
    const auto model = pare::capture(net, x);
    CHECK(pare::optimize(model, hostile_options(model, x)).report.within_budget());
    auto options = hostile_options(model, x);
    options.budget = {.bytes = pare::Bytes{1}, .latency_ms = 1e-9, .stored = pare::Bytes{1}};
    const auto found = pare::optimize(model, options);
    CHECK(found.report.shortfall.find("allowed") != std::string::npos);
  }
}

TEST_CASE("a climb on a model that answers with numbers of classes", "[auto]") {
  torch::manual_seed(1);
  ClassOnly net;
  const auto x = torch::randn({32, 8});
  const auto model = pare::capture(net, x);
  auto options = hostile_options(model, x);
  CHECK(pare::optimize(model, options).candidates.size() > 1);
  options.budget = {.max_drop = 0_pct, .stored = pare::Bytes{70}};
  CHECK(!pare::optimize(model, options).candidates.empty());
}

TEST_CASE("a climb on a model of half precision", "[auto]") {
  torch::manual_seed(5);
  nn::Sequential net(nn::Linear(8, 16), nn::BatchNorm1d(16), nn::ReLU(), nn::Linear(16, 4));
  net->to(torch::kBFloat16);
  net->eval();
  const auto x = torch::randn({32, 8}).to(torch::kBFloat16);
  const auto model = pare::capture(net, x);
  const auto found = pare::optimize(model, hostile_options(model, x));
  CHECK(found.report.within_budget());
  CHECK(found.compiled(x).scalar_type() == torch::kBFloat16);
}

TEST_CASE("a candidate's plan says what is computed, and is read back", "[auto]") {
  torch::manual_seed(2);
  TiedSides tied;
  const auto x = torch::randn({16, 8});
  const auto model = pare::capture(tied, x);
  CHECK(pare::optimize(model, hostile_options(model, x)).plan.layers.at(0).weights == 8_bits);

  HostileNet net;
  net->to(torch::kDouble);
  net->eval();
  const auto wide = x.to(torch::kDouble);
  const auto captured = pare::capture(net, wide);
  const auto found = pare::optimize(captured, hostile_options(captured, wide));
  CHECK(pare::Plan::parse(found.plan.text()) == found.plan);
}

TEST_CASE("scores by the answers of a model in training leave it as it is", "[scores]") {
  torch::manual_seed(3);
  HostileNet net;
  const auto x = torch::randn({16, 8}) + 2;
  auto model = pare::capture(net, x);
  model.train(true);
  const auto before = net->named_buffers()["1.running_mean"].clone();
  (void)pare::agreement_scores(x, model);
  (void)pare::expected_scores(x, model);
  CHECK(torch::equal(net->named_buffers()["1.running_mean"], before));
}

TEST_CASE("labels and outputs that do not fit are refused, not broadcast", "[pipeline][scores]") {
  const auto x = torch::randn({6, 8});
  const auto column = torch::zeros({6, 1}, torch::kLong), labels = torch::zeros({6}, torch::kLong);
  const pare::Predictor classes = [](const std::vector<torch::Tensor>&) { return std::vector{torch::zeros({6, 4})}; };
  const pare::Predictor numbers = [](const std::vector<torch::Tensor>&) { return std::vector{torch::zeros({6})}; };
  const pare::Predictor nothing = [](const std::vector<torch::Tensor>&) { return std::vector<torch::Tensor>{}; };
  CHECK(raises("pare.pipeline.104", [&] { (void)pare::top1(x, column)(classes); }));
  CHECK(raises("pare.pipeline.104", [&] { (void)pare::top1(x, torch::Tensor())(classes); }));
  CHECK(raises("pare.pipeline.104", [&] { (void)pare::top1(x, labels)(numbers); }));
  CHECK(raises("pare.pipeline.104", [&] { (void)pare::top1(x, labels)(nothing); }));
  CHECK(raises("pare.pipeline.104", [&] { (void)pare::top1_scores(x, column)(classes); }));
  CHECK(raises("pare.pipeline.104", [&] { (void)pare::top1_scores(x, labels)(nothing); }));
}

TEST_CASE("losses of a training with rounding that are no numbers, or teach nothing", "[auto][training]") {
  torch::manual_seed(4);
  HostileNet net;
  net->eval();
  const auto x = torch::randn({16, 8});
  const auto model = pare::capture(net, x);
  const auto run = [&](pare::ImitationLoss loss) {
    auto options = hostile_options(model, x);
    options.budget.max_drop = 0_pct;
    options.training.data = pare::TrainingData::shuffled({x}, 8);
    options.training.loss = std::move(loss);
    (void)pare::optimize(model, options);
  };
  CHECK(raises("pare.distill.125", [&] { run([](auto& student, auto&, auto&) { return student[0]; }); }));
  CHECK(raises("pare.distill.125", [&] { run([](auto&, auto&, auto&) { return torch::ones({}); }); }));
  CHECK(raises("pare.distill.125", [&] { run([](auto&, auto&, auto&) { return torch::Tensor(); }); }));
  CHECK(raises("pare.pipeline.109", [&] { run([](auto& student, auto&, auto&) { return student[0].sum() * NAN; }); }));
}

TEST_CASE("latency is not measured for ever", "[pipeline]") {
  nn::Linear net(8, 4);
  const auto x = torch::randn({6, 8});
  const auto model = pare::capture(net, x);
  CHECK(raises("pare.pipeline.101",
               [&] { (void)pare::OptimizationPipeline{}.run(model, {.calibration = x, .seconds = INFINITY}); }));
}
