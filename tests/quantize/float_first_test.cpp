// Small first layers, which stay float unless somebody says otherwise.
#include <torch/torch.h>

#include <limits>

#include "pare/analysis/cost.hpp"
#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/graph/target.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantization_aware_training.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;

// The stem has 3 * 8 * 9 multiply-accumulates a pixel, each layer behind 8 * wide * 9.
pare::Model stem_and_body(std::int64_t wide) {
  torch::manual_seed(7);
  nn::Sequential net(nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)), nn::ReLU(),
                     nn::Conv2d(nn::Conv2dOptions(8, wide, 3).padding(1)), nn::ReLU(),
                     nn::Conv2d(nn::Conv2dOptions(wide, 8, 3).padding(1)));
  net->eval();
  return pare::capture(net, torch::randn({2, 3, 8, 8}));
}

// Levels that no single scale of 8 bits holds, as a normalized picture has them.
torch::Tensor normalized(std::int64_t count) {
  torch::manual_seed(8);
  const auto bytes = torch::randint(0, 256, {count, 3, 8, 8}).to(torch::kFloat32);
  const auto mean = torch::tensor({125.3F, 122.9F, 113.9F}).view({1, 3, 1, 1}),
             deviation = torch::tensor({63.0F, 62.1F, 66.7F}).view({1, 3, 1, 1});
  return (bytes - mean) / deviation;
}

pare::Applied quantized(const pare::Model& model, const pare::Quantizer<>& quantizer) {
  return pare::apply(quantizer, model, {.calibration = pare::Batches{normalized(16)}});
}

bool reads_integers(const pare::Model& model, pare::NodeId layer) {
  const auto* producer = model.graph().producer(model.graph().node(layer).input(0));
  return producer && pare::family_of(producer->op) == pare::OpFamily::FakeQuantize;
}

std::vector<bool> integer_convolutions(const pare::Model& model) {
  std::vector<bool> result;
  for (const auto id : model.graph().nodes(pare::op("aten::conv2d"))) result.push_back(reads_integers(model, id));
  return result;
}

double squared_error(const pare::Model& model, const pare::Model& other) {
  const auto images = normalized(32);
  return (model(images) - other(images)).square().mean().item<double>();
}

using Integers = std::vector<bool>;

}  // namespace

TEST_CASE("a first layer that is a small part of the work stays float, and the report says why") {
  const auto model = stem_and_body(128);
  const pare::Cost cost(model);
  const auto share = static_cast<double>(cost.layers().at(0).macs) / static_cast<double>(cost.macs());
  REQUIRE(share == Approx(3.0 / (3 + 2 * 128)));
  const auto spared = quantized(model, {}), all = quantized(model, {.float_first_share = 0.0});
  REQUIRE(integer_convolutions(spared.model) == Integers{false, true, true});
  REQUIRE(integer_convolutions(all.model) == Integers{true, true, true});
  const auto row = spared.report.rows("0").back();
  REQUIRE(row.decision == pare::Decision::Declined);
  REQUIRE(row.reason.find("1.2 % of the work") != std::string::npos);
  REQUIRE(squared_error(model, spared.model) < 0.8 * squared_error(model, all.model));
}

TEST_CASE("a first layer is quantized where it is work, has bits of its own, or the target wants integers") {
  const auto small = stem_and_body(128), large = stem_and_body(64);
  const Integers all{true, true, true};
  REQUIRE(integer_convolutions(quantized(large, {}).model) == all);
  REQUIRE(integer_convolutions(quantized(large, {.float_first_share = 0.1}).model) == Integers{false, true, true});
  REQUIRE(integer_convolutions(quantized(small, {.layer_weights = {{"0", {8}}}}).model) == all);
  REQUIRE(integer_convolutions(quantized(small, {.layer_activations = {{"0", {8}}}}).model) == all);
  REQUIRE(integer_convolutions(quantized(small, {.exact_scales = true}).model) == all);
  REQUIRE(integer_convolutions(quantized(small, {.target = &pare::onnxruntime_target()}).model)[0]);
}

TEST_CASE("a model whose first layer stays float is trained and compiled as it is simulated") {
  const auto model = stem_and_body(128);
  const auto spared = quantized(model, {}).model;
  const auto images = normalized(4);
  const auto compiled = pare::compile(spared).run({images}).at(0);
  REQUIRE((compiled - spared(images)).abs().max().item<double>() < 0.02 * compiled.abs().max().item<double>());
  pare::QuantizationAwareTraining training(model, pare::Quantizer{}, pare::Batches{normalized(16)});
  REQUIRE(integer_convolutions(training.convert()) == Integers{false, true, true});
}

TEST_CASE("a share of first layers is between 0 and 1") {
  for (const double share : {-0.1, 1.5, std::numeric_limits<double>::quiet_NaN()})
    REQUIRE(raises("pare.quantize.103", [&] { pare::Quantizer{.float_first_share = share}.validate(); }));
}
