// Analyses on what they are not made for: models in training, outputs without classes, layers that nothing moves.
#include <torch/torch.h>

#include <limits>

#include "pare/analysis/activation_stats.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/analysis/latency_table.hpp"
#include "pare/analysis/output_loss.hpp"
#include "pare/analysis/sensitivity.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

pare::Model hostile_quantized(const pare::Model& model, const torch::Tensor& x, int bits) {
  return pare::apply(pare::Quantizer{.weights = {bits}}, model, {.calibration = x}).model;
}

// One number for each sample.
struct OneNumber : nn::Module {
  OneNumber() { fc = register_module("fc", nn::Linear(8, 1)); }
  torch::Tensor forward(const torch::Tensor& x) { return fc(x).squeeze(1); }
  nn::Linear fc{nullptr};
};

struct ConvolvedSequence : nn::Module {
  ConvolvedSequence() { conv = register_module("conv", nn::Conv1d(nn::Conv1dOptions(3, 6, 3).padding(1))); }
  torch::Tensor forward(const torch::Tensor& x) { return conv(x); }
  nn::Conv1d conv{nullptr};
};

struct TwoResults : nn::Module {
  TwoResults() { fc = register_module("fc", nn::Linear(4, 4)); }
  torch::Tensor forward(const torch::Tensor& x) { return fc(std::get<0>(torch::max(x, 1))); }
  nn::Linear fc{nullptr};
};

}  // namespace

TEST_CASE("analyses of a model in training leave the live module's statistics alone", "[sensitivity]") {
  torch::manual_seed(0);
  nn::Sequential net(nn::Linear(8, 6), nn::BatchNorm1d(6), nn::ReLU(), nn::Linear(6, 4));
  const auto x = torch::randn({16, 8}) + 3;
  auto model = pare::capture(net, x);
  model.train(true);
  const auto before = net->named_buffers()["1.running_mean"].clone();
  (void)pare::ActivationStats(model, x);
  for (const auto method : {pare::SensitivityMethod::Exact, pare::SensitivityMethod::Fisher})
    (void)pare::Sensitivity(model, {{"same", model}}, {.batches = x, .method = method});
  CHECK(torch::equal(net->named_buffers()["1.running_mean"], before));
  CHECK(model.is_training());
}

TEST_CASE("statistics far from zero are those of the values", "[sensitivity]") {
  torch::manual_seed(1);
  nn::Linear net(8, 4);
  {
    const torch::NoGradGuard no_grad;
    net->bias.fill_(5000);
  }
  const auto x = torch::randn({4000, 8});
  const auto layer = pare::ActivationStats(pare::capture(net, x), x).layers().at(0);
  const auto values = net(x).detach().to(torch::kDouble);
  const auto moved = values - values.mean();
  CHECK(layer.mean == Approx(values.mean().item<double>()));
  CHECK(layer.deviation == Approx(values.std(false).item<double>()));
  CHECK(layer.kurtosis == Approx((moved.pow(4).mean() / moved.square().mean().square()).item<double>() - 3));
}

TEST_CASE("statistics of sequences of several lengths", "[sensitivity]") {
  ConvolvedSequence net;
  const auto x = torch::randn({4, 3, 9});
  const auto model = pare::capture(net, x, {.dims = {{.name = "batch"}, {.name = "length", .where = {{0, 2}}}}});
  const pare::ActivationStats stats(model, pare::Batches{x, torch::randn({2, 3, 12})});
  CHECK(stats.layers().at(0).channels == 6);
}

TEST_CASE("losses and sweeps on outputs without classes or samples", "[sensitivity]") {
  torch::manual_seed(2);
  CHECK(raises("pare.analysis.105", [] { (void)pare::divergence_from({{torch::ones({6})}})({{torch::ones({6})}}); }));
  CHECK(pare::divergence_from({{torch::ones({2, 3}), torch::ones({})}})({{torch::ones({2, 3}), torch::ones({})}}) == 0);
  CHECK(pare::divergence_from({{torch::ones({0, 3})}})({{torch::ones({0, 3})}}) == 0);
  OneNumber net;
  const auto x = torch::randn({16, 8});
  const auto model = pare::capture(net, x);
  const auto int8 = hostile_quantized(model, x, 8), int4 = hostile_quantized(model, x, 4);
  const auto sweep = [&](const pare::Model& reference, const pare::Model& other, const pare::Batches& batches) {
    return pare::Sensitivity(reference, {{"other", other}},
                             {.batches = batches, .method = pare::SensitivityMethod::Fisher});
  };
  CHECK(raises("pare.analysis.106", [&] { (void)sweep(int8, int4, x); }));
  // Nothing with weights, and nothing that outputs depend on.
  nn::Sequential still{nn::ReLU()};
  const auto none = pare::capture(still, x);
  CHECK(sweep(none, none, x).layers().empty());
  nn::Linear classes(8, 4);
  const auto whole = pare::capture(classes, x);
  const auto eight = hostile_quantized(whole, x, 8), four = hostile_quantized(whole, x, 4);
  const auto damage = sweep(eight, four, x).layers().at(0).damage;
  CHECK(sweep(eight, four, pare::Batches{x, torch::zeros({0, 8})}).layers().at(0).damage == damage);
  CHECK(raises("pare.analysis.106", [&] { (void)sweep(eight, four, torch::zeros({0, 8})); }));
}

TEST_CASE("numbers that are none have no rank, and a short key nothing similar", "[latency]") {
  const auto nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(raises("pare.analysis.105", [&] { (void)pare::rank_correlation({1, nan, 3}, {1, 2, 3}); }));
  pare::LatencyTable table;
  table.set("step", 2);
  CHECK(table.similar("step", 10) == 2);
}

TEST_CASE("what nobody reads is alive no longer than its node runs", "[cost]") {
  TwoResults net;
  const auto model = pare::capture(net, torch::randn({2, 5, 4}));
  const pare::Cost cost(model);
  // Input of 20 numbers, four of the maximum, and four indices that nothing reads.
  CHECK(cost.peak_at() == "max");
  CHECK(cost.activation_peak() == 4 * 20 + 4 * 4 + 8 * 4);
}

TEST_CASE("scales and zero points are stored with the weight of their grid", "[sensitivity]") {
  torch::manual_seed(3);
  nn::Linear net(8, 4);
  const auto x = torch::randn({16, 8});
  const auto model = pare::capture(net, x);
  const auto stored = [&](const pare::Granularity& granularity, bool symmetric) {
    return pare::WeightStorage(pare::apply(pare::Quantizer{.granularity = granularity, .symmetric_weights = symmetric},
                                           model, {.calibration = x})
                                   .model);
  };
  CHECK(stored(pare::PerChannel{}, true).grid_bytes("weight") == 4 * 4);
  CHECK(stored(pare::PerChannel{}, false).grid_bytes("weight") == 2 * 4 * 4);
  CHECK(stored(pare::PerGroup{4}, true).grid_bytes("weight") == 4 * 8);
  CHECK(stored(pare::PerTensor{}, true).grid_bytes("weight") == 4);
  CHECK(stored(pare::PerTensor{}, false).bytes() == stored(pare::PerTensor{}, true).bytes() + 4);
  CHECK(stored(pare::PerTensor{}, true).grid_bytes("bias") == 0);
}
