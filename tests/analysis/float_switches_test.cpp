// Layers of a quantized model that are made float by a switch each.
#include "pare/analysis/float_switches.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <tuple>

#include "pare/analysis/layer_exchange.hpp"
#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using namespace pare::literals;

// Two layers that read the same input, and one behind the first.
struct SwitchedNet : torch::nn::Module {
  SwitchedNet() {
    left = register_module("left", torch::nn::Linear(16, 12));
    right = register_module("right", torch::nn::Linear(16, 4));
    last = register_module("last", torch::nn::Linear(12, 4));
    eval();
  }
  std::tuple<torch::Tensor, torch::Tensor> forward(const torch::Tensor& x) {
    return {last(torch::relu(left(x))), right(x)};
  }
  torch::nn::Linear left{nullptr}, right{nullptr}, last{nullptr};
};

struct SwitchFixture {
  SwitchFixture() {
    torch::manual_seed(0);
    net = std::make_shared<SwitchedNet>();
    x = torch::randn({64, 16});
    model = pare::capture(net, x);
    int8 = quantized({});
  }
  [[nodiscard]] pare::Model quantized(const pare::Quantizer<>& quantizer) const {
    return pare::apply(quantizer, model, {.calibration = pare::Batches{x}}).model;
  }
  std::shared_ptr<SwitchedNet> net;
  torch::Tensor x;
  pare::Model model, int8;
};

std::vector<std::string> switches_in(const pare::Model& model) {
  std::vector<std::string> paths;
  for (const auto& [path, weight] : model.weights())
    if (path.ends_with(pare::kFloatSwitch)) paths.push_back(path);
  return paths;
}

torch::Tensor linear_of(const pare::Model& model, const std::string& layer, const torch::Tensor& x) {
  return torch::linear(x, model.weight(layer + ".weight"), model.weight(layer + ".bias"));
}

}  // namespace

TEST_CASE("layers that read integers get a switch, and nothing else changes", "[sensitivity]") {
  const torch::NoGradGuard no_grad;
  const SwitchFixture fixture;
  const auto switched = pare::with_float_switches(fixture.int8);
  CHECK(switches_in(switched) == std::vector<std::string>{"last.reads_float", "left.reads_float", "right.reads_float"});
  for (const auto& path : switches_in(switched)) {
    const auto& value = switched.weight(path);
    CHECK(value.scalar_type() == torch::kBool);
    CHECK(value.dim() == 0);
    CHECK_FALSE(value.item<bool>());
  }
  CHECK(switches_in(fixture.int8).empty());
  const auto other = torch::randn({5, 16});
  const auto expected = fixture.int8.run({other}), actual = switched.run({other});
  REQUIRE(actual.size() == 2);
  for (std::size_t i = 0; i < 2; ++i) CHECK(torch::equal(actual[i], expected[i]));
}

TEST_CASE("a layer whose switch is on reads what was there before the rounding, and it alone", "[sensitivity]") {
  const torch::NoGradGuard no_grad;
  const SwitchFixture fixture;
  auto switched = pare::with_float_switches(fixture.int8);
  const auto off = switched.run({fixture.x});
  const auto float_right = linear_of(fixture.int8, "right", fixture.x);
  CHECK_FALSE(torch::allclose(off[1], float_right, 1e-5, 1e-5));  // it reads integers
  switched.set_weight("right.reads_float", torch::ones({}, torch::kBool));
  const auto on = switched.run({fixture.x});
  CHECK(torch::allclose(on[1], float_right, 1e-5, 1e-5));  // its weights are what they were
  CHECK(torch::equal(on[0], off[0]));
  for (const auto* path : {"left.reads_float", "last.reads_float"})
    switched.set_weight(path, torch::ones({}, torch::kBool));
  const auto hidden = torch::relu(linear_of(fixture.int8, "left", fixture.x));
  CHECK(torch::allclose(switched.run({fixture.x})[0], linear_of(fixture.int8, "last", hidden), 1e-5, 1e-5));
}

TEST_CASE("a layer that was left float, or a float model, has no switch", "[sensitivity]") {
  const SwitchFixture fixture;
  const auto mixed = fixture.quantized({.keep_float = {"left"}});
  CHECK(switches_in(pare::with_float_switches(mixed)) ==
        std::vector<std::string>{"last.reads_float", "right.reads_float"});
  CHECK(switches_in(pare::with_float_switches(fixture.model)).empty());
}

TEST_CASE("a layer taken from a float model turns its switch on, from a quantized one off", "[sensitivity]") {
  const torch::NoGradGuard no_grad;
  const SwitchFixture fixture;
  const auto switched = pare::with_float_switches(fixture.int8);
  const pare::LayerExchange exchange(switched);
  const auto layer = std::ranges::find(exchange.layers(), "right", &pare::LayerExchange::Layer::name);
  REQUIRE(layer != exchange.layers().end());
  CHECK(layer->weight == "right.weight");
  CHECK(layer->entries == 4 * 16);
  CHECK(layer->readers.size() == 1);
  const auto position = static_cast<std::size_t>(layer - exchange.layers().begin());
  const auto taken = [&](const pare::Model& variant) { return exchange.taken_from({"variant", variant}).at(position); };
  const auto key = pare::index(switched.graph().weight("right.reads_float"));
  CHECK(taken(fixture.model).at(key).item<bool>());
  CHECK_FALSE(taken(fixture.quantized({.weights = 4_bits})).at(key).item<bool>());
  // All of it replaced, the layer computes what it does in the float model.
  const auto outputs = pare::PrefixReplay(switched, pare::Batches{fixture.x}).outputs(taken(fixture.model)).at(0);
  CHECK(torch::allclose(outputs[1], fixture.model.run({fixture.x})[1], 1e-5, 1e-6));
  CHECK(torch::equal(outputs[0], fixture.int8.run({fixture.x})[0]));
}

TEST_CASE("layers are not taken from a model that has others", "[sensitivity]") {
  struct Alone : torch::nn::Module {
    Alone() {
      left = register_module("left", torch::nn::Linear(16, 12));
      eval();
    }
    torch::Tensor forward(const torch::Tensor& x) { return left(x); }
    torch::nn::Linear left{nullptr};
  } net;
  const SwitchFixture fixture;
  const pare::LayerExchange exchange(fixture.int8);
  const auto foreign = pare::capture(net, fixture.x);
  CHECK(raises("pare.analysis.106", [&] { (void)exchange.taken_from({"foreign", foreign}); }));
}
