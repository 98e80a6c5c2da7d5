// Searches with models, limits and losses that are no good: refused, or named in the shortfall.
#include <torch/torch.h>

#include <cmath>

#include "pare/analysis/layer_exchange.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/plan/joint_plan.hpp"
#include "pare/plan/mixed_precision.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/quantize/quantizer.hpp"
#include "pare/quantize/sketch.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

struct HostileSearch {
  HostileSearch() {
    torch::manual_seed(0);
    nn::Sequential net(nn::Linear(8, 32), nn::ReLU(), nn::Linear(32, 32), nn::ReLU(), nn::Linear(32, 4));
    x = torch::randn({16, 8});
    model = pare::capture(net, x);
    int8 = quantized({.weights = 8_bits});
    int4 = quantized({.weights = 4_bits});
    thin = pruned(0.25);
  }
  [[nodiscard]] pare::Model quantized(const pare::Quantizer<>& quantizer) const { return quantized(quantizer, model); }
  [[nodiscard]] pare::Model quantized(const pare::Quantizer<>& quantizer, const pare::Model& from) const {
    return pare::apply(quantizer, from, {.calibration = x}).model;
  }
  [[nodiscard]] pare::Model pruned(double ratio) const {
    return pare::apply(pare::Pruner{.ratio = pare::Ratio{ratio}, .scope = pare::Scope::PerGroup}, model,
                       {.calibration = x})
        .model;
  }
  [[nodiscard]] pare::Model realized(const pare::Plan& plan, pare::Quantizer<> quantizer) const {
    auto result = model;
    if (const auto ratios = plan.group_ratios(); !ratios.empty())
      result = pare::apply(pare::Pruner{.group_ratios = ratios}, model, {.calibration = x}).model;
    quantizer.layer_weights = plan.layer_weights();
    return quantized(quantizer, result);
  }
  [[nodiscard]] pare::JointPlanOptions joint() const {
    return {.batches = x, .realize = [this](const pare::Plan& plan) { return realized(plan, {}); }};
  }
  torch::Tensor x;
  pare::Model model, int8, int4, thin;
};

}  // namespace

TEST_CASE("mixed precision refuses models and limits that it cannot use", "[plan]") {
  const HostileSearch given;
  const auto search = [&](std::vector<pare::Precision> models, const pare::PlanLimits& limits) {
    (void)pare::mixed_precision(std::move(models), {.batches = given.x, .limits = limits});
  };
  CHECK(raises("pare.plan.105", [&] { search({{8_bits, given.int8}, {8_bits, given.int8}}, {}); }));
  CHECK(raises("pare.plan.105", [&] { search({{8_bits, given.int8}, {12_bits, given.int4}}, {}); }));
  CHECK(raises("pare.plan.105", [&] { search({{8_bits, given.int8}, {{1}, given.int4}}, {}); }));
  CHECK(raises("pare.plan.105", [&] { search({{8_bits, given.int8}, {4_bits, given.int4}}, {.macs = 100}); }));
  CHECK(raises("pare.plan.103", [&] { search({{8_bits, given.int8}, {4_bits, given.int4}}, {.damage = NAN}); }));
  CHECK(raises("pare.plan.103", [&] { search({{8_bits, given.int8}, {4_bits, given.int4}}, {.damage = -1}); }));
}

TEST_CASE("limits that contradict each other are said to", "[plan]") {
  const HostileSearch given;
  const auto bytes = pare::WeightStorage(given.int4).bytes() + 10;
  const auto found = pare::mixed_precision({{8_bits, given.int8}, {4_bits, given.int4}},
                                           {.batches = given.x, .limits = {.bytes = bytes, .damage = 1e-15}});
  CHECK(found.shortfall == "each limit can be kept alone, but no plan keeps all of them");
}

TEST_CASE("a plan whose loss is no number is refused", "[plan][joint]") {
  const HostileSearch given;
  const auto broken = [](const pare::BatchOutputs&) { return std::nan(""); };
  CHECK(raises("pare.analysis.107", [&] {
    (void)pare::mixed_precision({{8_bits, given.int8}, {4_bits, given.int4}}, {.batches = given.x, .loss = broken});
  }));
  int calls = 0;
  auto options = given.joint();
  options.loss = [&](const pare::BatchOutputs&) { return ++calls > 6 ? std::nan("") : 1.0; };
  CHECK(raises("pare.analysis.107", [&] {
    (void)pare::joint_plan(given.model, {{8_bits, given.int8}, {4_bits, given.int4}}, {{25_pct, given.thin}}, options);
  }));
}

TEST_CASE("what mixed precision says of bytes counts the scales of each choice", "[plan]") {
  const HostileSearch given;
  const auto groups = given.quantized({.weights = 4_bits, .granularity = pare::PerGroup{4}});
  const auto found = pare::mixed_precision({{8_bits, given.int8}, {4_bits, groups}, {32_bits, given.model}},
                                           {.batches = given.x, .front = 0});
  for (const auto& point : found.points) {
    if (point.name == "uniform int8") CHECK(point.bytes == pare::WeightStorage(given.int8).bytes());
    if (point.name == "uniform int4") CHECK(point.bytes == pare::WeightStorage(groups).bytes());
    if (point.name == "uniform float32") CHECK(point.bytes == pare::WeightStorage(given.model).bytes());
  }
}

TEST_CASE("joint plans refuse candidates that they cannot tell apart, and no batches", "[joint]") {
  const HostileSearch given;
  const auto search = [&](const std::vector<pare::Precision>& quantized, const std::vector<pare::PrunedModel>& pruned,
                          const pare::JointPlanOptions& options) {
    (void)pare::joint_plan(given.model, quantized, pruned, options);
  };
  const pare::Precision int8{8_bits, given.int8};
  const pare::PrunedModel thin{25_pct, given.thin};
  CHECK(raises("pare.plan.105", [&] { search({int8, int8}, {thin}, given.joint()); }));
  CHECK(raises("pare.plan.105", [&] { search({int8, {32_bits, given.model}}, {thin}, given.joint()); }));
  CHECK(raises("pare.plan.105", [&] { search({int8}, {thin, thin}, given.joint()); }));
  CHECK(raises("pare.plan.105", [&] { search({int8}, {{150_pct, given.thin}}, given.joint()); }));
  auto options = given.joint();
  options.limits.average_bits = 5;
  CHECK(raises("pare.plan.105", [&] { search({int8}, {thin}, options); }));
  options = given.joint();
  options.batches = {};
  CHECK(raises("pare.analysis.106", [&] { search({int8}, {thin}, options); }));
}

TEST_CASE("a joint plan is exact about scales of groups and zero points, too", "[joint]") {
  const HostileSearch given;
  for (const auto& way :
       {pare::Quantizer<>{.granularity = pare::PerGroup{4}}, pare::Quantizer<>{.symmetric_weights = false}}) {
    auto options = given.joint();
    options.realize = [&](const pare::Plan& plan) { return given.realized(plan, way); };
    const auto found = pare::joint_plan(given.model, {{8_bits, given.quantized(way)}}, {{25_pct, given.thin}}, options);
    for (const auto& point : found.points)
      CHECK(point.bytes == pare::WeightStorage(options.realize(point.plan)).bytes());
  }
}

TEST_CASE("numbers that are none are refused before anything is planned", "[plan]") {
  CHECK(raises("pare.plan.102", [] { pare::Planner({{"a", 10, {{8_bits, 1, 5, 0, NAN}}}}); }));
  CHECK(raises("pare.plan.102", [] { pare::Planner({{"a", 10, {{8_bits, 1, 5}}}}, 0, NAN); }));
}

TEST_CASE("the latency of a plan of other layers is refused", "[plan]") {
  const HostileSearch given;
  pare::Plan layers;
  const pare::LayerExchange exchange(given.model);
  for (const auto& layer : exchange.layers()) layers.layers.push_back({layer.name, 8_bits, layer.entries});
  const pare::PlanLatency latency(
      layers, {8_bits},
      {.realize = [&](const pare::Plan& plan) { return pare::sketch(given.model, plan, {given.x}); },
       .inputs = {given.x},
       .seconds = 0.01});
  pare::Plan empty;
  CHECK(raises("pare.plan.104", [&] { (void)latency.predict(empty); }));
}
