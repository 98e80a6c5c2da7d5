#include "pare/plan/plan.hpp"

#include <torch/torch.h>

#include "pare/analysis/weight_storage.hpp"
#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/plan/mixed_precision.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

std::vector<pare::PlanChoices> layers() {
  return {{"stem", 100, {{{8}, 0.0, 100, 1.0}, {{4}, 0.9, 50, 1.0}}},
          {"body", 1000, {{{8}, 0.0, 1000, 2.0}, {{4}, 0.2, 500, 2.0}, {{32}, -0.1, 4000, 5.0}}},
          {"head", 400, {{{8}, 0.0, 400, 0.5}, {{4}, 0.3, 200, 0.5}}}};
}

struct Fixture {
  Fixture() {
    torch::manual_seed(3);
    net = nn::Sequential(nn::Conv2d(nn::Conv2dOptions(3, 16, 3).padding(1)), nn::ReLU(),
                         nn::Conv2d(nn::Conv2dOptions(16, 24, 3).stride(2)), nn::ReLU(), nn::Conv2d(24, 24, 1),
                         nn::ReLU(), nn::AdaptiveAvgPool2d(1), nn::Flatten(), nn::Linear(24, 10));
    net->eval();
    for (int i = 0; i < 3; ++i) images.push_back(torch::randn({8, 3, 12, 12}));
    model = pare::capture(net, images[0]);
    for (const int bits : {8, 4, 2}) models.push_back({{bits}, quantized(pare::Quantizer{.weights = {bits}})});
    const torch::NoGradGuard no_grad;
    for (const auto& batch : images) answers.push_back({model(batch)});
  }
  template <class Q>
  [[nodiscard]] pare::Model quantized(const Q& quantizer) const {
    return pare::apply(quantizer, model, {.calibration = images}).model;
  }
  [[nodiscard]] pare::MixedPrecisionOptions options() const {
    return {.batches = images, .loss = pare::divergence_from(answers)};
  }
  nn::Sequential net{nullptr};
  std::vector<torch::Tensor> images;
  pare::BatchOutputs answers;
  pare::Model model;
  std::vector<pare::Precision> models;
};

}  // namespace

TEST_CASE("a plan prints, is edited and read back", "[plan]") {
  const auto plan = *pare::Planner(layers()).plan({.bytes = 1000});
  CHECK(pare::Plan::parse(plan.text()) == plan);
  const auto edited = pare::Plan::parse(R"(
# by hand
layer bits reason
stem  32   the first layer stays float
body  4    # saves most
)");
  REQUIRE(edited.layers.size() == 2);
  CHECK(edited.float_layers() == std::vector<std::string>{"stem"});
  REQUIRE(edited.layer_weights().size() == 1);
  CHECK(edited.layer_weights()[0].second == 4_bits);
  CHECK(edited.layers[0].reason == "the first layer stays float");
  auto odd = plan;  // names that a module may have
  odd.layers[0].name = "block #1.a \"wide\" layer\\";
  odd.groups.push_back({.name = "group two", .ratio = {0.5}});
  CHECK(pare::Plan::parse(odd.text()) == odd);
  CHECK(pare::Plan::parse("layer bits\n\"my # layer\" 8 # of all").layers[0].name == "my # layer");
  for (const auto* text : {"", "stem 8", "layer bits\nstem", "layer bits\nstem x", "layer bits\nstem 9",
                           "layer bits\nstem 8\nstem 4", "layer bits colour\n"})
    CHECK(raises("pare.plan.101", [&] { (void)pare::Plan::parse(text); }));
}

TEST_CASE("the planner takes bits where they hurt least", "[plan]") {
  const pare::Planner planner(layers(), 64, 1.0);
  CHECK(planner.plan({})->average_bits() == 8);  // noise that looks like a gain buys no float body
  const auto six = *planner.plan({.average_bits = 6});
  CHECK(six.layers[0].weights == 8_bits);
  CHECK(six.layers[1].weights == 4_bits);
  CHECK(six.layers[2].weights == 8_bits);
  CHECK(six.average_bits() <= 6);
  CHECK(planner.bytes(six) == 64 + 100 + 500 + 400);
  CHECK(planner.latency_ms(six) == Approx(4.5));
  CHECK(six.damage() == Approx(0.2));
  CHECK(six.layers[0].reason.find("4 bits would cost 0.9") == 0);
  // The smallest plan within a damage.
  CHECK(planner.bytes(*planner.plan({.damage = 0.55})) == 64 + 100 + 500 + 200);
  // Several limits at once; one that cannot be kept is named.
  CHECK(planner.plan({.average_bits = 6, .bytes = 1000, .latency_ms = 4.5}).has_value());
  CHECK_FALSE(planner.plan({.bytes = 700}).has_value());
  CHECK(planner.binding({.average_bits = 6, .bytes = 700}) == "at least 814 bytes, 700 allowed");
  auto integers = layers();
  integers[1].choices.pop_back();
  const pare::Planner smaller(integers);
  const auto front = smaller.front(4);
  REQUIRE(front.size() >= 3);
  for (std::size_t i = 1; i < front.size(); ++i) CHECK(smaller.bytes(front[i]) > smaller.bytes(front[i - 1]));
}

TEST_CASE("mixed precision beats what is uniform at its size, and its sizes are exact", "[plan]") {
  const Fixture fixture;
  auto options = fixture.options();
  options.limits.average_bits = 4.5;
  const auto found = pare::mixed_precision(fixture.models, options);
  CHECK(found.shortfall.empty());
  CHECK(found.plan.average_bits() <= 4.5);
  const auto& chosen = found.chosen();
  for (const auto& point : found.points) {
    if (point.plan.average_bits() <= 4.5) CHECK(chosen.loss <= point.loss);
    // What the plan predicts of its size is what the quantized model has, to the byte; so is its loss.
    const auto model = fixture.quantized(pare::Quantizer{.layer_weights = point.plan.layer_weights()});
    CHECK(pare::WeightStorage(model).bytes() == point.bytes);
    pare::BatchOutputs outputs;
    const torch::NoGradGuard no_grad;
    for (const auto& batch : fixture.images) outputs.push_back({model(batch)});
    CHECK(std::abs(options.loss(outputs) - point.loss) < 1e-9);
  }
  CHECK(found.points[0].name == "uniform int8");
  CHECK(found.points[2].name == "uniform int2");
  CHECK(found.evaluations > 1);
  const auto again = pare::mixed_precision(fixture.models, options);
  CHECK(again.plan == found.plan);
}

TEST_CASE("a damage that may not be exceeded gives the smallest plan", "[plan]") {
  const Fixture fixture;
  auto options = fixture.options();
  options.limits.damage = 1e-3;
  const auto found = pare::mixed_precision(fixture.models, options);
  CHECK(found.shortfall.empty());
  CHECK(found.chosen().bytes < found.points[0].bytes);
  CHECK(found.chosen().loss - found.points[0].loss <= 1e-3);
}

TEST_CASE("limits that no plan keeps give the smallest one and are named", "[plan]") {
  const Fixture fixture;
  auto options = fixture.options();
  options.limits.bytes = 100;
  const auto found = pare::mixed_precision(fixture.models, options);
  CHECK(found.shortfall.find("bytes, 100 allowed") != std::string::npos);
  CHECK(found.chosen().name == "uniform int2");
}

TEST_CASE("planning on bad input is refused", "[plan]") {
  const Fixture fixture;
  CHECK(raises("pare.plan.105", [&] { (void)pare::mixed_precision({fixture.models[0]}, fixture.options()); }));
  CHECK(raises("pare.plan.102", [] { pare::Planner({}); }));
  CHECK(raises("pare.plan.102", [] { pare::Planner({{"a", 1, {}}}); }));
  CHECK(raises("pare.plan.102", [] { pare::Planner({{"a", 1, {{{8}, std::nan(""), 1, 0}}}}); }));
  CHECK(raises("pare.plan.103", [] { (void)pare::Planner(layers()).plan({.average_bits = -1}); }));
  CHECK(raises("pare.plan.104", [] { (void)pare::Planner(layers()).bytes(pare::Plan{}); }));
}
