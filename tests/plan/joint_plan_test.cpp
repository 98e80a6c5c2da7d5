#include "pare/plan/joint_plan.hpp"

#include <torch/torch.h>

#include "pare/analysis/channel_groups.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/capture/capture.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

// A residual pair and a chain, with batch norms: groups that several layers share.
struct JointNet : nn::Module {
  JointNet() {
    torch::manual_seed(9);
    const auto conv = [](int64_t in, int64_t out) { return nn::Conv2d(nn::Conv2dOptions(in, out, 3).padding(1)); };
    stem = register_module("stem", conv(3, 16));
    a = register_module("a", conv(16, 24));
    norm = register_module("norm", nn::BatchNorm2d(24));
    b = register_module("b", conv(24, 16));
    fc1 = register_module("fc1", nn::Linear(16, 20));
    fc2 = register_module("fc2", nn::Linear(20, 5));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = torch::relu(stem(x));
    const auto z = torch::relu(b(torch::relu(norm(a(y)))) + y);
    return fc2(torch::relu(fc1(z.mean({2, 3}))));
  }
  nn::Conv2d stem{nullptr}, a{nullptr}, b{nullptr};
  nn::BatchNorm2d norm{nullptr};
  nn::Linear fc1{nullptr}, fc2{nullptr};
};

struct JointFixture {
  JointFixture() {
    JointNet net;
    for (int i = 0; i < 3; ++i) images.push_back(torch::randn({8, 3, 10, 10}));
    model = pare::apply(pare::FoldBatchNorm{}, pare::capture(net, images[0])).model;
    for (const int bits : {8, 4}) quantized.push_back({{bits}, made(pare::Quantizer{.weights = {bits}}, model)});
    for (const double ratio : {0.25, 0.5})
      pruned.push_back(
          {{ratio}, made(pare::Pruner{.ratio = pare::Ratio{ratio}, .scope = pare::Scope::PerGroup}, model)});
  }
  [[nodiscard]] pare::Model made(const pare::AnyPass& pass, const pare::Model& from) const {
    return pare::apply(pass, from, {.calibration = images}).model;
  }
  [[nodiscard]] pare::Model realized(const pare::Plan& plan) const {
    auto result = model;
    if (const auto ratios = plan.group_ratios(); !ratios.empty())
      result = made(pare::Pruner{.group_ratios = ratios}, result);
    return made(pare::Quantizer{.layer_weights = plan.layer_weights()}, result);
  }
  [[nodiscard]] pare::JointPlanOptions options() const {
    return {.batches = images, .realize = [this](const pare::Plan& plan) { return realized(plan); }};
  }
  std::vector<torch::Tensor> images;
  pare::Model model;
  std::vector<pare::Precision> quantized;
  std::vector<pare::PrunedModel> pruned;
};

}  // namespace

TEST_CASE("groups are pruned by their own ratios", "[joint]") {
  const JointFixture fixture;
  const pare::ChannelGroups groups(fixture.model);
  const auto& name = groups.group("a.weight:0").name;
  const auto pruned = fixture.made(pare::Pruner{.group_ratios = {{name, 50_pct}}}, fixture.model);
  CHECK(pruned.weight("a.weight").size(0) == 12);
  CHECK(pruned.weight("b.weight").size(1) == 12);
  CHECK(pruned.weight("stem.weight").size(0) == 16);
  CHECK(pruned.weight("fc1.weight").size(0) == 20);
  CHECK(raises("pare.prune.104", [&] {
    (void)fixture.made(pare::Pruner{.group_ratios = {{"nowhere", 50_pct}}}, fixture.model);
  }));
  CHECK(raises("pare.prune.101", [&] {
    (void)fixture.made(pare::Pruner{.group_ratios = {{name, 100_pct}}}, fixture.model);
  }));
}

TEST_CASE("a joint plan keeps its bytes, is exact about them, and no uniform plan within them is better", "[joint]") {
  const JointFixture fixture;
  auto options = fixture.options();
  const auto whole = pare::WeightStorage(fixture.quantized[0].model).bytes();
  options.limits.bytes = whole * 6 / 10;
  const auto found = pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options);
  CHECK(found.shortfall.empty());
  CHECK(found.chosen().bytes <= *options.limits.bytes);
  REQUIRE(found.points.size() >= 6);
  CHECK(found.points[0].name == "uniform int8");
  CHECK(found.points[0].bytes == whole);
  const torch::NoGradGuard no_grad;
  pare::BatchOutputs answers;
  for (const auto& batch : fixture.images) answers.push_back({fixture.model(batch)});
  const auto loss = pare::divergence_from(answers);
  for (const auto& point : found.points) {
    if (point.bytes <= *options.limits.bytes) CHECK(found.chosen().loss <= point.loss);
    const auto model = fixture.realized(point.plan);
    CHECK(pare::WeightStorage(model).bytes() == point.bytes);  // to the byte
    CHECK(static_cast<double>(pare::Cost(model).macs()) == Approx(point.macs));
    pare::BatchOutputs outputs;
    for (const auto& batch : fixture.images) outputs.push_back({model(batch)});
    CHECK(loss(outputs) == Approx(point.loss));
  }
  // Printed, edited, read back, made.
  const auto text = found.plan.text();
  CHECK(pare::Plan::parse(text) == found.plan);
  CHECK_FALSE(found.plan.groups.empty());
  const auto edited = pare::Plan::parse("layer bits\nfc2 8\n\ngroup ratio\na.weight:0 0.5  # by hand\n");
  REQUIRE(edited.group_ratios().size() == 1);
  CHECK(fixture.realized(edited).weight("a.weight").size(0) == 12);
  for (const auto* bad : {"layer bits\nfc2 8\ngroup ratio\na 1.5", "group ratio\na 0.1\na 0.2", "group units\na 3",
                          "layer bits\nfc2 8\ngroup ratio\na"})
    CHECK(raises("pare.plan.101", [&] { (void)pare::Plan::parse(bad); }));
}

TEST_CASE("a joint plan keeps multiply-accumulates, or a damage", "[joint]") {
  const JointFixture fixture;
  auto options = fixture.options();
  options.method = pare::SensitivityMethod::Exact;
  options.limits.macs = 0.7 * static_cast<double>(pare::Cost(fixture.model).macs());
  const auto faster = pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options);
  CHECK(faster.shortfall.empty());
  CHECK(faster.chosen().macs <= *options.limits.macs);
  CHECK_FALSE(faster.plan.group_ratios().empty());
  // Bits take no multiply-accumulates off.
  for (const auto& layer : faster.plan.layers) CHECK(layer.weights == 8_bits);
  options.limits = {.damage = 1e-2};
  const auto smaller = pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options);
  CHECK(smaller.shortfall.empty());
  CHECK(smaller.chosen().loss - smaller.points[0].loss <= 1e-2);
  CHECK(smaller.chosen().bytes <= smaller.points[0].bytes);
}

TEST_CASE("a joint plan keeps a latency that was measured, or says which is the least", "[joint]") {
  const JointFixture fixture;
  auto options = fixture.options();
  options.inputs = {fixture.images[0]};
  options.seconds = 0.02;
  // Whatever the clock says, this is kept.
  options.limits.latency_ms = 1e6;
  const auto free = pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options);
  CHECK(free.shortfall.empty());
  for (const auto& point : free.points) {
    CHECK(point.latency_ms > 0);
    CHECK(free.chosen().loss <= point.loss);
  }
  // And this is not, with or without other limits.
  options.limits.latency_ms = 1e-6;
  const auto impossible = pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options);
  CHECK(impossible.shortfall.find(" ms") != std::string::npos);
  CHECK(std::ranges::min(impossible.points, {}, &pare::PlanPoint::latency_ms).name == impossible.chosen().name);
  options.inputs.clear();
  CHECK(raises("pare.plan.106",
               [&] { (void)pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options); }));
  options.inputs = {fixture.images[0]};
  options.limits.latency_ms = std::nan("");
  CHECK(raises("pare.plan.103",
               [&] { (void)pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options); }));
}

TEST_CASE("joint plans on bad input: refused, or short of the limit and saying so", "[joint]") {
  const JointFixture fixture;
  auto options = fixture.options();
  options.limits.bytes = 10;
  const auto found = pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options);
  CHECK(found.shortfall.find("bytes") != std::string::npos);
  CHECK(std::ranges::min(found.points, {}, &pare::PlanPoint::bytes).bytes == found.chosen().bytes);
  options.limits = {};
  CHECK(raises("pare.plan.105", [&] { (void)pare::joint_plan(fixture.model, fixture.quantized, {}, options); }));
  CHECK(raises("pare.plan.105", [&] { (void)pare::joint_plan(fixture.model, {}, fixture.pruned, options); }));
  CHECK(raises("pare.plan.107", [&] {
    nn::Sequential other(nn::Linear(4, 4));
    const auto stranger = pare::capture(other, torch::randn({2, 4}));
    (void)pare::joint_plan(fixture.model, fixture.quantized, {{50_pct, stranger}}, options);
  }));
  options.limits.macs = -1;
  CHECK(raises("pare.plan.103",
               [&] { (void)pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options); }));
  options.limits = {};
  options.cancelled = [] { return true; };
  CHECK(raises("pare.analysis.108",
               [&] { (void)pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options); }));
  options.realize = {};
  CHECK(raises("pare.plan.106",
               [&] { (void)pare::joint_plan(fixture.model, fixture.quantized, fixture.pruned, options); }));
}
