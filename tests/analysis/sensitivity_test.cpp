#include "pare/analysis/sensitivity.hpp"

#include <torch/torch.h>

#include <map>

#include "pare/analysis/activation_stats.hpp"
#include "pare/analysis/output_loss.hpp"
#include "pare/analysis/prefix_replay.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

struct BranchyNet : nn::Module {
  BranchyNet() {
    torch::manual_seed(0);
    stem = register_module("stem", nn::Conv2d(nn::Conv2dOptions(3, 12, 3).padding(1)));
    left = register_module("left", nn::Conv2d(nn::Conv2dOptions(12, 12, 3).padding(1)));
    right = register_module("right", nn::Conv2d(nn::Conv2dOptions(12, 12, 1)));
    fc = register_module("fc", nn::Linear(12, 7));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = torch::relu(stem(x));
    return fc(torch::relu(left(y) + right(y)).mean({2, 3}));
  }
  nn::Conv2d stem{nullptr}, left{nullptr}, right{nullptr};
  nn::Linear fc{nullptr};
};

struct Fixture {
  Fixture() {
    torch::manual_seed(1);
    for (int i = 0; i < 3; ++i) images.push_back(torch::randn({8, 3, 10, 10}));
    model = pare::capture(net, images[0]);
    int8 = quantized(8);
    int3 = quantized(3);
  }
  [[nodiscard]] pare::Model quantized(int bits) const {
    return pare::apply(pare::Quantizer{.weights = {bits}}, model, {.calibration = images}).model;
  }
  BranchyNet net;
  std::vector<torch::Tensor> images;
  pare::Model model, int8, int3;
};

}  // namespace

TEST_CASE("a replay from the middle gives what a whole run gives", "[sensitivity]") {
  const Fixture fixture;
  const torch::NoGradGuard no_grad;
  pare::PrefixReplay replay(fixture.int8, fixture.images);
  for (const auto id : fixture.int8.graph().nodes()) {
    replay.advance(id);
    const auto outputs = replay.outputs();
    REQUIRE(outputs.size() == 3);
    for (std::size_t b = 0; b < outputs.size(); ++b)
      REQUIRE(torch::equal(outputs[b].at(0), fixture.int8(fixture.images[b])));
  }
}

TEST_CASE("a replay with values replaced is a run of the model that has them", "[sensitivity]") {
  const Fixture fixture;
  const torch::NoGradGuard no_grad;
  pare::PrefixReplay replay(fixture.int8, fixture.images);
  CHECK(replay.samples() == std::vector<std::int64_t>{8, 8, 8});
  // A weight that a fake-quantize reads: what follows from it alone is computed anew.
  const auto& graph = fixture.int8.graph();
  const auto path = std::string("fc.weight");
  const auto value = static_cast<std::size_t>(graph.weight(path));
  const pare::Replacements replaced{{value, 0.5 * fixture.int8.weight(path)}};
  auto other = fixture.int8;
  other.set_weight(path, 0.5 * fixture.int8.weight(path));
  const auto first = replay.first_reader(replaced);
  REQUIRE(first != pare::kNoNode);
  CHECK(graph.node(first).name == "fc");
  replay.advance(first);
  const auto outputs = replay.outputs(replaced), whole = replay.outputs();
  for (std::size_t b = 0; b < outputs.size(); ++b) {
    CHECK(torch::equal(outputs[b].at(0), other(fixture.images[b])));
    CHECK(torch::equal(whole[b].at(0), fixture.int8(fixture.images[b])));
  }
  // Forward only: what was run stays run.
  replay.advance(graph.nodes().front());
  CHECK(torch::equal(replay.outputs()[0].at(0), fixture.int8(fixture.images[0])));
  CHECK(replay.first_reader({}) == pare::kNoNode);
  CHECK_THROWS_AS(pare::PrefixReplay(fixture.int8, pare::Batches(torch::randn({2, 4, 10, 10}))).outputs(), pare::Error);
}

TEST_CASE("losses of outputs are those that they are named after", "[sensitivity]") {
  const auto x = torch::tensor({{0.0, 0.0}, {std::log(3.0), 0.0}}), y = torch::zeros({2, 2}, torch::kDouble);
  // KL((3/4, 1/4) || (1/2, 1/2)), and nothing for the first sample.
  const auto one = 0.75 * std::log(1.5) + 0.25 * std::log(0.5);
  CHECK(pare::divergence_from({{x}})({{y}}) == Approx(one / 2));
  CHECK(pare::divergence_from({{x}})({{x}}) == 0);
  // Batches are taken together, by samples.
  CHECK(pare::divergence_from({{x}, {x.slice(0, 0, 1)}})({{y}, {y.slice(0, 0, 1)}}) == Approx(one / 3));
  // With four axes classes lie along the second one, and a sample's loss is the mean over its positions.
  const auto plane = x.unsqueeze(-1).unsqueeze(-1).expand({2, 2, 3, 5});
  CHECK(pare::divergence_from({{plane}})({{torch::zeros_like(plane)}}) == Approx(one / 2));
  CHECK(pare::noise_against({{torch::full({2, 3}, 2.0)}})({{torch::full({2, 3}, 2.2)}}) == Approx(0.01));
  // Only what floats is compared; undefined outputs are passed over.
  const auto classes = torch::zeros({2}, torch::kLong);
  CHECK(pare::noise_against({{classes, torch::Tensor(), x}})({{classes + 1, torch::Tensor(), x}}) == 0);
  for (const auto& loss : {pare::divergence_from({{x}}), pare::noise_against({{x}})}) {
    CHECK(raises("pare.analysis.105", [&] { (void)loss({}); }));
    CHECK(raises("pare.analysis.105", [&] { (void)loss({{torch::zeros({2, 3})}}); }));
    CHECK(raises("pare.analysis.105", [&] { (void)loss({{torch::Tensor()}}); }));
  }
}

TEST_CASE("the damage of a layer is what quantizing it alone does", "[sensitivity]") {
  const Fixture fixture;
  const torch::NoGradGuard no_grad;
  pare::BatchOutputs answers;
  for (const auto& batch : fixture.images) answers.push_back({fixture.model(batch)});
  const auto loss = pare::divergence_from(answers);
  const pare::Sensitivity sensitivity(fixture.int8, {{"int3", fixture.int3}},
                                      {.batches = fixture.images, .loss = loss});
  REQUIRE(sensitivity.layers().size() == 4);
  pare::BatchOutputs base;
  for (const auto& batch : fixture.images) base.push_back({fixture.int8(batch)});
  for (const auto& layer : sensitivity.layers()) {
    // The slow way: quantize the model with this layer at 3 bits and run it.
    const pare::Quantizer quantizer{.layer_weights = {{layer.name, 3_bits}}};
    const auto alone = pare::apply(quantizer, fixture.model, {.calibration = fixture.images});
    pare::BatchOutputs outputs;
    for (const auto& batch : fixture.images) outputs.push_back({alone.model(batch)});
    CHECK(std::abs(layer.damage.at(0) - (loss(outputs) - loss(base))) < 1e-9);
    CHECK(layer.damage.at(0) > 0);
  }
  CHECK(sensitivity.text().find("left") != std::string::npos);
  CHECK(sensitivity.layer("fc").weights == 84);
  CHECK(raises("pare.analysis.109", [&] { (void)sensitivity.layer("nowhere"); }));
}

TEST_CASE("the Fisher method ranks layers as the exact sweep does, and predicts small damages", "[sensitivity]") {
  const Fixture fixture;
  const pare::Sensitivity exact(fixture.int8, {{"int3", fixture.int3}}, {.batches = fixture.images});
  const pare::SensitivityOptions options{
      .batches = fixture.images, .method = pare::SensitivityMethod::Fisher, .draws = 64};
  const pare::Sensitivity fisher(fixture.int8, {{"int3", fixture.int3}}, options);
  std::vector<double> a, b;
  for (std::size_t i = 0; i < exact.layers().size(); ++i) {
    CHECK(exact.layers()[i].name == fisher.layers()[i].name);
    a.push_back(exact.layers()[i].damage[0]);
    b.push_back(fisher.layers()[i].damage[0]);
    CHECK(b.back() > 0.4 * a.back());
    CHECK(b.back() < 2.5 * a.back());
  }
  CHECK(pare::rank_correlation(a, b) > 0.7);
  // The draws are the seed's.
  const pare::Sensitivity again(fixture.int8, {{"int3", fixture.int3}}, options);
  for (std::size_t i = 0; i < b.size(); ++i) CHECK(again.layers()[i].damage[0] == b[i]);
}

TEST_CASE("a sweep over layers of equal cost computes half of layers times runs", "[sensitivity]") {
  torch::manual_seed(6);
  nn::Sequential net;
  constexpr int kLayers = 10;
  for (int i = 0; i < kLayers; ++i) {
    net->push_back(nn::Linear(16, 16));
    net->push_back(nn::ReLU());
  }
  const auto x = torch::randn({32, 16});
  const auto model = pare::capture(net, x);
  const auto made = [&](int bits) {
    return pare::apply(pare::Quantizer{.weights = {bits}}, model, {.calibration = std::vector<torch::Tensor>{x}}).model;
  };
  const pare::Sensitivity sweep(made(8), {{"int4", made(4)}}, {.batches = x});
  // The answers, the prefix once, and 10/10 + 9/10 + ... + 1/10 of a run.
  CHECK(sweep.work() == Approx(2 + 0.5 * (kLayers + 1)));
  pare::SensitivityOptions options{.batches = x, .loss = pare::divergence_from({{model(x)}})};
  CHECK(pare::Sensitivity(made(8), {{"int4", made(4)}}, options).work() == Approx(1 + 0.5 * (kLayers + 1)));
}

TEST_CASE("the Fisher method follows a loss that the reference does not minimise", "[sensitivity]") {
  const Fixture fixture;
  pare::BatchOutputs answers;
  {
    const torch::NoGradGuard no_grad;
    for (const auto& batch : fixture.images) answers.push_back({fixture.model(batch)});
  }
  // From int3 to int8: what is gained, which the curvature alone would call a loss.
  pare::SensitivityOptions options{.batches = fixture.images, .loss = pare::divergence_from(answers)};
  const pare::Sensitivity exact(fixture.int3, {{"int8", fixture.int8}}, options);
  options.method = pare::SensitivityMethod::Fisher;
  options.draws = 64;
  options.answers = answers;
  const pare::Sensitivity fisher(fixture.int3, {{"int8", fixture.int8}}, options);
  std::vector<double> a, b;
  for (std::size_t i = 0; i < exact.layers().size(); ++i) {
    a.push_back(exact.layers()[i].damage[0]);
    b.push_back(fisher.layers()[i].damage[0]);
    CHECK(a.back() * b.back() > 0);  // the same sign
  }
  CHECK(*std::ranges::min_element(a) < 0);
  auto alone = options;
  alone.answers = {};
  const pare::Sensitivity curvature(fixture.int3, {{"int8", fixture.int8}}, alone);
  for (const auto& layer : curvature.layers()) CHECK(layer.damage[0] > 0);
  options.answers = {{torch::zeros({8, 3})}};
  CHECK(raises("pare.analysis.105", [&] { pare::Sensitivity(fixture.int3, {{"int8", fixture.int8}}, options); }));
}

TEST_CASE("two changes cost what they do together, not what each does alone", "[sensitivity]") {
  struct TwoBranches : nn::Module {
    TwoBranches() { register_module("left", left), register_module("right", right); }
    torch::Tensor forward(const torch::Tensor& x) { return left(x) + right(x); }
    nn::Linear left{6, 4}, right{6, 4};
  };
  torch::manual_seed(8);
  TwoBranches net;
  const auto x = torch::randn({16, 6});
  const auto model = pare::capture(net, x);
  const auto change = torch::randn({4, 6}) * 0.01;
  const auto moved = [&](double left, double right) {
    auto result = model;
    result.set_weight("left.weight", (net.left->weight + left * change).detach());
    result.set_weight("right.weight", (net.right->weight + right * change).detach());
    return result;
  };
  const std::vector<pare::Variant> variants{{"along", moved(1, 1)}, {"against", moved(1, -1)}};
  pare::SensitivityOptions options{.batches = x, .method = pare::SensitivityMethod::Fisher, .draws = 16};
  const pare::Sensitivity fisher(model, variants, options);
  const auto alone = fisher.layers()[0].damage[0];
  CHECK(alone > 0);
  CHECK(fisher.interaction(0, 0, 1, 0) == Approx(2 * alone).epsilon(1e-3));   // twice the change: four times the damage
  CHECK(fisher.interaction(0, 1, 1, 1) == Approx(-2 * alone).epsilon(1e-3));  // one undoes the other
  CHECK(fisher.interaction(1, 1, 0, 0) == fisher.interaction(0, 0, 1, 1));
  CHECK(fisher.interaction(0, 0, 0, 1) == 0);
  CHECK(pare::divergence_from({{model(x)}})({{variants[0].model(x)}}) == Approx(4 * alone).epsilon(0.2));
  options.method = pare::SensitivityMethod::Exact;
  CHECK(pare::Sensitivity(model, variants, options).interaction(0, 0, 1, 0) == 0);
}

namespace {

enum class TokenLayout { SamplesFirst, TimeFirst, SharedPositions };

// Words and their places through a block; samples along the first axis or the second, places looked up for each sample
// or once for all.
struct TokenNet : nn::Module {
  explicit TokenNet(TokenLayout layout) : layout(layout) {
    torch::manual_seed(11);
    words = register_module("words", nn::Embedding(20, 12));
    places = register_module("places", nn::Embedding(6, 12));
    wide = register_module("wide", nn::Linear(12, 24));
    back = register_module("back", nn::Linear(24, 12));
    head = register_module("head", nn::Linear(12, 5));
  }
  torch::Tensor forward(const torch::Tensor& ids) {
    const auto count = torch::arange(6);
    auto x = words(ids) + places(layout == TokenLayout::SharedPositions ? count : count.expand({ids.size(0), 6}));
    if (layout == TokenLayout::TimeFirst) x = x.transpose(0, 1);
    x = x + back(torch::relu(wide(x)));
    return head(x.mean(layout == TokenLayout::TimeFirst ? 0 : 1));
  }
  TokenLayout layout;
  nn::Embedding words{nullptr}, places{nullptr};
  nn::Linear wide{nullptr}, back{nullptr}, head{nullptr};
};

std::map<std::string, double> token_damages(TokenLayout layout, std::int64_t samples) {
  TokenNet net(layout);
  std::vector<torch::Tensor> batches;
  for (int i = 0; i < 2; ++i) batches.push_back(torch::randint(20, {samples, 6}));
  const auto model = pare::capture(net, batches[0]);
  auto changed = model;
  for (const auto* path : {"words.weight", "places.weight", "wide.weight", "back.weight", "head.weight"})
    changed.set_weight(path, (model.weight(path) + 0.02 * torch::randn(model.weight(path).sizes())).detach());
  const pare::Sensitivity fisher(model, {{"changed", changed}},
                                 {.batches = batches, .method = pare::SensitivityMethod::Fisher, .draws = 128});
  std::map<std::string, double> damages;
  for (const auto& layer : fisher.layers()) damages[layer.weight] = layer.damage[0];
  return damages;
}

}  // namespace

TEST_CASE("the Fisher method finds samples along whichever axis they lie", "[sensitivity]") {
  for (const std::int64_t samples : {3, 4, 6}) {
    CAPTURE(samples);
    const auto expected = token_damages(TokenLayout::SamplesFirst, samples);
    REQUIRE(expected.size() == 5);
    for (const auto& [path, damage] : token_damages(TokenLayout::TimeFirst, samples)) {
      CAPTURE(path);
      CHECK(damage == Approx(expected.at(path)).epsilon(1e-3));
    }
    for (const auto& [path, damage] : token_damages(TokenLayout::SharedPositions, samples)) {
      CAPTURE(path);
      CHECK(damage == Approx(expected.at(path)).epsilon(path == "places.weight" ? 0.4 : 1e-3));
    }
  }
}

TEST_CASE("rank correlation is Spearman's", "[sensitivity]") {
  CHECK(pare::rank_correlation({1, 2, 3, 4}, {10, 20, 30, 40}) == Approx(1.0));
  CHECK(pare::rank_correlation({1, 2, 3, 4}, {4, 3, 2, 1}) == Approx(-1.0));
  CHECK(pare::rank_correlation({1, 2, 2, 3}, {1, 3, 2, 4}) == Approx(0.9486833));
  CHECK(raises("pare.analysis.105", [] { (void)pare::rank_correlation({1}, {1}); }));
}

TEST_CASE("stored bytes count every weight at its own width", "[sensitivity]") {
  const Fixture fixture;
  const pare::WeightStorage whole(fixture.model), int8(fixture.int8), int3(fixture.int3);
  const std::uint64_t weights = 12 * 27 + 12 * 108 + 12 * 12 + 7 * 12, channels = 12 + 12 + 12 + 7;
  CHECK(whole.bytes() == 4 * (weights + channels));
  CHECK(int8.bytes() == weights + 8 * channels);
  CHECK(int3.bytes("left.weight") == 12 * 108 * 3 / 8);
  CHECK(int3.bits("left.weight") == 3);
  CHECK(int8.bits("left.bias") == 32);
}

TEST_CASE("sweeps that cannot be are refused, by layer", "[sensitivity]") {
  const Fixture fixture;
  const auto sweep = [&](pare::SensitivityOptions options) {
    pare::Sensitivity(fixture.int8, {{"int3", fixture.int3}}, options);
  };
  CHECK(raises("pare.analysis.106", [&] { sweep({}); }));
  CHECK(raises("pare.analysis.106", [&] { pare::Sensitivity(fixture.int8, {}, {.batches = fixture.images}); }));
  CHECK(raises("pare.analysis.107", [&] {
    sweep({.batches = fixture.images, .loss = [](const pare::BatchOutputs&) { return std::nan(""); }});
  }));
  CHECK(raises("pare.analysis.108", [&] { sweep({.batches = fixture.images, .cancelled = [] { return true; }}); }));
  nn::Sequential other(nn::Linear(4, 4));
  const auto stranger = pare::capture(other, torch::randn({2, 4}));
  CHECK(raises("pare.analysis.106", [&] {
    pare::Sensitivity(fixture.int8, {{"stranger", stranger}}, {.batches = fixture.images});
  }));
}

TEST_CASE("activation statistics are those of the values", "[sensitivity]") {
  torch::manual_seed(4);
  const torch::NoGradGuard no_grad;
  nn::Sequential net(nn::Linear(6, 5), nn::ReLU(), nn::Linear(5, 3));
  net->ptr<nn::LinearImpl>(0)->weight[2].zero_();
  net->ptr<nn::LinearImpl>(0)->bias[2] = -1;  // a channel that never fires
  const auto model = pare::capture(net, torch::randn({2, 6}));
  const std::vector<torch::Tensor> batches{torch::randn({300, 6}), torch::randn({200, 6})};
  const pare::ActivationStats stats(model, batches);
  REQUIRE(stats.layers().size() == 2);
  const auto values = torch::relu(net->ptr<nn::LinearImpl>(0)->forward(torch::cat(batches))).to(torch::kDouble);
  const auto& layer = stats.layers()[0];
  CHECK(layer.name == "0");
  CHECK(layer.channels == 5);
  CHECK(layer.dead == 1);
  CHECK(layer.low == 0);
  CHECK(layer.high == Approx(values.max().item<double>()));
  CHECK(layer.mean == Approx(values.mean().item<double>()));
  CHECK(layer.deviation == Approx(values.std(false).item<double>()));
  const auto centred = values - values.mean();
  CHECK(layer.kurtosis ==
        Approx((centred.pow(4).mean() / centred.square().mean().square()).item<double>() - 3).epsilon(1e-6));
  CHECK(layer.channel_spread >= 1);
  // One value far out among many.
  auto spiked = torch::zeros({1000, 6});
  spiked[0].fill_(1e3);
  CHECK(pare::ActivationStats(model, spiked).layers()[1].outliers > 0);
  CHECK(raises("pare.analysis.106", [&] { pare::ActivationStats(model, {}); }));
  CHECK(raises("pare.analysis.110", [&] { pare::ActivationStats(model, torch::full({2, 6}, std::nan(""))); }));
}
