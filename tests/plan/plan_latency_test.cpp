#include "pare/plan/plan_latency.hpp"

#include <torch/torch.h>

#include "pare/analysis/layer_exchange.hpp"
#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/plan/mixed_precision.hpp"
#include "pare/quantize/quantizer.hpp"
#include "pare/quantize/sketch.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

struct TimedFixture {
  TimedFixture() {
    torch::manual_seed(5);
    nn::Sequential net(nn::Conv2d(nn::Conv2dOptions(3, 16, 3).padding(1)), nn::ReLU(),
                       nn::Conv2d(nn::Conv2dOptions(16, 24, 3).stride(2)), nn::ReLU(), nn::MaxPool2d(2),
                       nn::Conv2d(24, 24, 1), nn::ReLU(), nn::AdaptiveAvgPool2d(1), nn::Flatten(), nn::Linear(24, 10));
    net->eval();
    for (int i = 0; i < 2; ++i) images.push_back(torch::randn({8, 3, 24, 24}));
    model = pare::capture(net, images[0]);
    const pare::LayerExchange exchange(model);
    for (const auto& layer : exchange.layers()) layers.layers.push_back({layer.name, 8_bits, layer.entries});
  }
  [[nodiscard]] pare::PlanLatencyOptions options(const std::string& cache = {}) const {
    return {.realize = [this](const pare::Plan& plan) { return pare::sketch(model, plan, {images[0]}); },
            .inputs = {images[0]},
            .cache = cache,
            .seconds = 0.02};
  }
  [[nodiscard]] pare::Plan plan(std::vector<int> bits) const {
    auto result = layers;
    for (std::size_t i = 0; i < bits.size(); ++i) result.layers[i].weights = {bits[i]};
    return result;
  }
  std::vector<torch::Tensor> images;
  pare::Model model;
  pare::Plan layers;
};

}  // namespace

TEST_CASE("a plan's latency is the sum of its steps, and all of them are known", "[plan]") {
  const TimedFixture fixture;
  const pare::PlanLatency latency(fixture.layers, {8_bits, 4_bits, 32_bits}, fixture.options());
  for (const auto& bits :
       std::vector<std::vector<int>>{{8, 8, 8, 8}, {32, 32, 32, 32}, {8, 32, 8, 32}, {32, 8, 8, 32}, {4, 8, 4, 8}}) {
    auto plan = fixture.plan(bits);
    const auto predicted = latency.predict(plan);
    const auto steps = latency.steps(plan);
    CHECK(predicted == Approx(plan.latency_ms()));
    CHECK(steps.total_ms() == Approx(predicted).epsilon(1e-3));
    CHECK(predicted > 0);
    CHECK(pare::Plan::parse(plan.text()) == plan);
    CHECK(plan.text().find("ms a call") != std::string::npos);
  }
  // What neighbours may be was measured for chains of these lengths.
  CHECK(latency.steps(fixture.plan({8, 8, 8, 8})).guessed() == 0);
  CHECK(latency.steps(fixture.plan({32, 8, 32, 8})).guessed() == 0);
  // Fewer bits run as 8.
  auto eight = fixture.plan({8, 8, 8, 8}), four = fixture.plan({4, 4, 4, 4});
  CHECK(latency.predict(eight) == latency.predict(four));
  CHECK(latency.layer_ms(fixture.layers.layers[0].name, 4_bits) ==
        latency.layer_ms(fixture.layers.layers[0].name, 8_bits));
  double sum = 0;
  for (const auto& layer : fixture.layers.layers) sum += latency.layer_ms(layer.name, 8_bits);
  CHECK(sum == Approx(latency.predict(eight)).epsilon(1e-3));
  CHECK(raises("pare.plan.104", [&] { (void)latency.layer_ms("nowhere", 8_bits); }));
  CHECK(raises("pare.plan.104", [&] { (void)latency.layer_ms(fixture.layers.layers[0].name, 16_bits); }));
}

TEST_CASE("what was timed once is read from the folder", "[plan]") {
  const TimedFixture fixture;
  const ScratchFolder folder;
  const auto cache = folder.path().string();
  const pare::PlanLatency first(fixture.layers, {8_bits, 32_bits}, fixture.options(cache));
  CHECK(folder.count() == 1);
  const auto before = contents(first.table().path());
  const pare::PlanLatency second(fixture.layers, {8_bits, 32_bits}, fixture.options(cache));
  CHECK(contents(second.table().path()) == before);
  for (const auto& layer : fixture.layers.layers)
    CHECK(second.layer_ms(layer.name, 8_bits) == first.layer_ms(layer.name, 8_bits));
}

TEST_CASE("mixed precision keeps a limit on the latency, and names one that cannot be kept", "[plan]") {
  const TimedFixture fixture;
  std::vector<pare::Precision> models{{32_bits, fixture.model}};
  for (const int bits : {8, 4})
    models.push_back({{bits},
                      pare::apply(pare::Quantizer{.weights = {bits}, .smooth = false}, fixture.model,
                                  {.calibration = fixture.images})
                          .model});
  pare::BatchOutputs answers;
  {
    const torch::NoGradGuard no_grad;
    for (const auto& batch : fixture.images) answers.push_back({fixture.model(batch)});
  }
  const ScratchFolder folder;
  pare::MixedPrecisionOptions options;
  options.batches = fixture.images;
  options.loss = pare::divergence_from(answers);
  options.method = pare::SensitivityMethod::Exact;
  options.latency = fixture.options(folder.path().string());
  const auto free = pare::mixed_precision(models, options);
  REQUIRE(free.points.size() >= 3);
  double least = 1e9, most = 0;
  for (const auto& point : free.points) {
    CHECK(point.latency_ms > 0);
    CHECK(point.plan.latency_ms() == Approx(point.latency_ms));
    least = std::min(least, point.latency_ms);
    most = std::max(most, point.latency_ms);
  }
  // Without limits nothing is quantized that costs anything.
  CHECK(free.chosen().loss <= free.points[0].loss);
  CHECK(free.points.back().loss < 1);
  options.limits.latency_ms = 0.5 * (least + most);
  const auto limited = pare::mixed_precision(models, options);
  CHECK(limited.shortfall.empty());
  CHECK(limited.chosen().latency_ms <= *options.limits.latency_ms);
  options.limits.latency_ms = 1e-6;
  const auto impossible = pare::mixed_precision(models, options);
  CHECK(impossible.shortfall.find("ms, 1e-06 allowed") != std::string::npos);
  CHECK(impossible.chosen().latency_ms > 0);
  options.latency.reset();
  CHECK(raises("pare.plan.106", [&] { (void)pare::mixed_precision(models, options); }));
}

TEST_CASE("the damage of leaving a layer float is what the model gains by it", "[plan]") {
  const TimedFixture fixture;
  const torch::NoGradGuard no_grad;
  const auto int4 = [&](const std::vector<std::string>& kept) {
    return pare::apply(pare::Quantizer{.keep_float = kept, .weights = 4_bits, .smooth = false}, fixture.model,
                       {.calibration = fixture.images})
        .model;
  };
  pare::BatchOutputs answers, alone;
  for (const auto& batch : fixture.images) answers.push_back({fixture.model(batch)});
  pare::MixedPrecisionOptions options;
  options.batches = fixture.images;
  options.loss = pare::divergence_from(answers);
  options.method = pare::SensitivityMethod::Exact;
  const auto found = pare::mixed_precision({{32_bits, fixture.model}, {4_bits, int4({})}}, options);
  // All float is the float model itself.
  const auto whole = std::ranges::find(found.points, std::string("uniform float32"), &pare::PlanPoint::name);
  REQUIRE(whole != found.points.end());
  CHECK(std::abs(whole->loss) < 1e-9);
  // The last layer reads float where it is left float: compared with quantizing around it.
  const auto name = fixture.layers.layers.back().name;
  const auto partly = int4({name});
  for (const auto& batch : fixture.images) alone.push_back({partly(batch)});
  const auto& uniform = *std::ranges::find(found.points, std::string("uniform int4"), &pare::PlanPoint::name);
  const auto& damage = found.sensitivity->layer(name).damage.at(0);
  CHECK(std::abs((uniform.loss + damage) - options.loss(alone)) < 1e-7);
  CHECK(raises("pare.plan.105", [&] {
    (void)pare::mixed_precision({{32_bits, fixture.model}, {16_bits, fixture.model}}, options);
  }));
}

TEST_CASE("latencies without anything to run are refused", "[plan]") {
  const TimedFixture fixture;
  CHECK(raises("pare.plan.106", [&] { pare::PlanLatency(fixture.layers, {8_bits}, {}); }));
  CHECK(raises("pare.plan.102", [&] { pare::PlanLatency({}, {8_bits}, fixture.options()); }));
  CHECK(raises("pare.plan.102", [&] { pare::PlanLatency(fixture.layers, {}, fixture.options()); }));
}
