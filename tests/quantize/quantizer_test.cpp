#include "pare/quantize/quantizer.hpp"

#include <torch/torch.h>

#include <map>
#include <tuple>

#include "pare/analysis/weight_storage.hpp"
#include "pare/capture/capture.hpp"
#include "pare/core/error.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/entropy.hpp"
#include "pare/numerics/min_max.hpp"
#include "pare/numerics/moving_average.hpp"
#include "pare/numerics/percentile.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/compare.hpp"
#include "tests/support/catch.hpp"

namespace {

namespace nn = torch::nn;

// Stem, residual block with a strided branch, pooling, two heads' worth of linear.
struct SmallNet : nn::Module {
  SmallNet() {
    stem = register_module("stem", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)));
    norm = register_module("norm", nn::BatchNorm2d(8));
    depthwise = register_module("depthwise", nn::Conv2d(nn::Conv2dOptions(8, 8, 3).padding(1).groups(8)));
    project = register_module("project", nn::Conv2d(nn::Conv2dOptions(8, 8, 1)));
    fc = register_module("fc", nn::Linear(8, 5));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(norm(stem(x)));
    y = torch::relu(project(torch::relu(depthwise(y))) + y);
    return fc(torch::adaptive_avg_pool2d(y, {1, 1}).flatten(1));
  }
  nn::Conv2d stem{nullptr}, depthwise{nullptr}, project{nullptr};
  nn::BatchNorm2d norm{nullptr};
  nn::Linear fc{nullptr};
};

struct Recurrent : nn::Module {
  Recurrent() {
    words = register_module("words", nn::Embedding(400, 12));
    lstm = register_module("lstm", nn::LSTM(nn::LSTMOptions(12, 16).batch_first(true)));
    head = register_module("head", nn::Linear(16, 3));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& ids) { return head(std::get<0>(lstm(words(ids))).mean(1)); }
  nn::Embedding words{nullptr};
  nn::LSTM lstm{nullptr};
  nn::Linear head{nullptr};
};

// Its table of words is the output layer, too.
struct TiedHead : nn::Module {
  TiedHead() {
    words = register_module("words", nn::Embedding(400, 12));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& ids) { return torch::matmul(words(ids), words->weight.t()); }
  nn::Embedding words{nullptr};
};

// A filter that is one row of numbers.
struct Filter : nn::Module {
  Filter() { taps = register_parameter("taps", torch::randn({9})); }
  torch::Tensor forward(const torch::Tensor& x) { return torch::conv1d(x, taps.view({1, 1, -1})); }
  torch::Tensor taps;
};

// Reads an image beside a mask of integers, which become numbers as they are concatenated.
struct Masked : nn::Module {
  Masked() {
    conv = register_module("conv", nn::Conv2d(nn::Conv2dOptions(4, 8, 3)));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& image, const torch::Tensor& mask) {
    return conv(torch::cat({image, mask}, 1));
  }
  nn::Conv2d conv{nullptr};
};

std::size_t count(const pare::Model& model, std::string_view name) {
  return model.graph().nodes(pare::op(name)).size();
}
constexpr auto kTensor = "aten::fake_quantize_per_tensor_affine";
constexpr auto kChannel = "aten::fake_quantize_per_channel_affine";

pare::Batches images(int batches = 3) {
  torch::manual_seed(1);
  std::vector<torch::Tensor> result;
  for (int i = 0; i < batches; ++i) result.push_back(torch::randn({8, 3, 10, 10}));
  return result;
}

template <class Act>
std::string error_of(Act act) {
  try {
    act();
  } catch (const pare::Error& error) {
    return error.id() + " " + error.path();
  }
  return {};
}

}  // namespace

TEST_CASE("the default ladder quantizes regions once and keeps the function", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  SmallNet net;
  const auto model = pare::capture(net, torch::randn({2, 3, 10, 10}));
  const auto int8 = pare::apply(pare::Quantizer{}, model, {.calibration = images()});
  CHECK(count(int8.model, "aten::batch_norm") == 0);
  CHECK(count(int8.model, kChannel) == 4);  // three convolutions and the linear layer
  // The input, the stem, the depthwise layer, the residual block, the pooled features; not the logits.
  CHECK(count(int8.model, kTensor) == 5);
  const auto x = torch::randn({16, 3, 10, 10});
  CHECK(pare::sqnr_db(net.forward(x), int8.model(x)) > 28.0);
  CHECK(count(model, kTensor) == 0);
  for (const auto* layer : {"stem", "depthwise", "project", "fc"}) {
    const auto rows = int8.report.rows(layer);
    REQUIRE_FALSE(rows.empty());
    CHECK(rows.back().decision == pare::Decision::Done);
  }
  // Weights lie on their grid already: fake-quantizing them again changes nothing.
  for (const auto id : int8.model.graph().nodes(pare::op(kChannel))) {
    const auto& node = int8.model.graph().node(id);
    const auto& weight = int8.model.weight(node.input(0));
    const auto& scale = int8.model.weight(node.input(1));
    std::vector<std::int64_t> shape(static_cast<std::size_t>(weight.dim()), 1);
    shape[0] = -1;
    const auto integers = weight / scale.reshape(shape);
    CHECK((integers - integers.round()).abs().max().item<float>() < 1e-3F);
    CHECK(integers.abs().max().item<float>() < 127.5F);
  }
  const auto again = error_of([&] { (void)pare::apply(pare::Quantizer{}, int8.model, {.calibration = images()}); });
  CHECK(again.starts_with("pare.quantize.104"));
}

TEST_CASE("every policy deduces and quantizes", "[quantize]") {
  using namespace pare::literals;
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  SmallNet net;
  const auto model = pare::capture(net, torch::randn({2, 3, 10, 10}));
  const auto x = torch::randn({16, 3, 10, 10});
  const auto expected = net.forward(x);
  const auto sqnr = [&](auto quantizer) {
    return pare::sqnr_db(expected, pare::apply(quantizer, model, {.calibration = images()}).model(x));
  };
  CHECK(sqnr(pare::Quantizer{.observer = pare::MinMax{}}) > 25.0);
  CHECK(sqnr(pare::Quantizer{.observer = pare::MovingAverage{0.5}}) > 20.0);
  CHECK(sqnr(pare::Quantizer{.observer = pare::Percentile{99.99}}) > 20.0);
  CHECK(sqnr(pare::Quantizer{.observer = pare::Entropy{}}) > 15.0);
  CHECK(sqnr(pare::Quantizer{.weight_observer = pare::WeightMinMax{}, .rounding = pare::Rounding::Nearest}) > 25.0);
  CHECK(sqnr(pare::Quantizer{.granularity = pare::PerTensor{}}) > 20.0);
  CHECK(sqnr(pare::Quantizer{.symmetric_weights = false}) > 25.0);
  CHECK(sqnr(pare::Quantizer{.weights = 4_bits, .activations = 8_bits}) < sqnr(pare::Quantizer{}));
  CHECK(sqnr(pare::Quantizer{.weights = 4_bits, .granularity = pare::PerGroup{4}}) >
        sqnr(pare::Quantizer{.weights = 4_bits, .granularity = pare::PerTensor{}}));
}

TEST_CASE("layers are kept float by name and by pattern", "[quantize]") {
  torch::manual_seed(0);
  SmallNet net;
  const auto model = pare::capture(net, torch::randn({2, 3, 10, 10}));
  const auto result = pare::apply(pare::Quantizer{.keep_float = {"fc", "dep*"}}, model, {.calibration = images()});
  CHECK(count(result.model, kChannel) == 2);
  for (const auto* layer : {"fc", "depthwise"}) {
    const auto rows = result.report.rows(layer);
    REQUIRE_FALSE(rows.empty());
    CHECK(rows.back().decision == pare::Decision::Declined);
    CHECK(rows.back().reason == "kept float on request");
  }
  CHECK(error_of([&] {
          (void)pare::apply(pare::Quantizer{.keep_float = {"nonesuch.*"}}, model, {.calibration = images()});
        }).starts_with("pare.quantize.105"));
}

TEST_CASE("weight-only needs no calibration; embeddings and recurrent layers are always weight-only", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  SmallNet net;
  const auto model = pare::capture(net, torch::randn({2, 3, 10, 10}));
  const auto light = pare::apply(pare::Quantizer{.weight_only = true}, model);
  CHECK(count(light.model, kTensor) == 0);
  CHECK(count(light.model, kChannel) == 4);

  Recurrent text;
  const auto ids = torch::randint(0, 30, {4, 9});
  const auto recurrent = pare::capture(text, torch::randint(0, 30, {2, 9}));
  const auto int8 = pare::apply(pare::Quantizer{}, recurrent, {.calibration = pare::Batches{ids}});
  CHECK(count(int8.model, kChannel) == 4);  // the embedding, two matrices of the LSTM, the head
  CHECK(pare::sqnr_db(text.forward(ids), int8.model(ids)) > 30.0);
}

TEST_CASE("a data loader with workers calibrates, as a whole or in part", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  SmallNet net;
  const auto model = pare::capture(net, torch::randn({2, 3, 10, 10}));
  const auto loader = torch::data::make_data_loader<torch::data::samplers::SequentialSampler>(
      torch::data::datasets::TensorDataset(torch::randn({24, 3, 10, 10}))
          .map(torch::data::transforms::Stack<torch::data::TensorExample>()),
      torch::data::DataLoaderOptions(4).workers(2));
  const auto all = pare::Batches::over(*loader);
  for (const auto& batches : {all, all.first(2)})
    CHECK(count(pare::apply(pare::Quantizer{}, model, {.calibration = batches}).model, kTensor) == 5);
}

TEST_CASE("bad calibration is an error that names the layer and leaves the model alone", "[quantize]") {
  torch::manual_seed(0);
  SmallNet net;
  const auto model = pare::capture(net, torch::randn({2, 3, 10, 10}));
  const auto x = torch::randn({2, 3, 10, 10});
  const auto before = net.forward(x);
  const auto fails = [&](const pare::Batches& batches) {
    auto touched = model;
    pare::Context context(touched, {.calibration = batches});
    const auto error = error_of([&] { context.run(pare::Quantizer{}, touched); });
    CHECK(count(touched, kTensor) == 0);
    CHECK(count(touched, "aten::batch_norm") == 1);
    CHECK(torch::equal(touched(x), before));
    return error;
  };
  CHECK(fails({}).starts_with("pare.pass.102"));
  CHECK(fails(torch::full({2, 3, 10, 10}, NAN)).starts_with("pare.quantize.101 "));
  CHECK(fails(torch::full({2, 3, 10, 10}, INFINITY)).starts_with("pare.quantize.101 "));
  CHECK(fails(torch::zeros({2, 5})).starts_with("pare.run.103"));
  CHECK(fails(torch::zeros({0, 3, 10, 10})).starts_with("pare.quantize.102"));
  {
    const torch::NoGradGuard no_grad;
    net.fc->weight[0][0] = NAN;
  }
  CHECK(error_of([&] { (void)pare::apply(pare::Quantizer{.weight_only = true}, model); }) ==
        "pare.quantize.101 fc.weight");
  CHECK(error_of([] { pare::Quantizer{.weights = {16}}.validate(); }).starts_with("pare.quantize.103"));
}

TEST_CASE("constant channels and dead inputs do no harm", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  SmallNet net;
  net.stem->weight[2].zero_();
  net.depthwise->weight.zero_();
  net.fc->weight.select(0, 1).fill_(0.5);
  const auto model = pare::capture(net, torch::randn({2, 3, 10, 10}));
  const auto int8 = pare::apply(pare::Quantizer{}, model, {.calibration = images()});
  const auto x = torch::randn({8, 3, 10, 10});
  CHECK(torch::isfinite(int8.model(x)).all().item<bool>());
  CHECK(pare::sqnr_db(net.forward(x), int8.model(x)) > 25.0);
}

TEST_CASE("compare finds the layer that a change hurts", "[quantize]") {
  torch::manual_seed(0);
  SmallNet net;
  const auto model = pare::capture(net, torch::randn({2, 3, 10, 10}));
  const auto coarse = pare::apply(pare::Quantizer{.keep_float = {"stem", "depthwise", "project"}, .weights = {2}},
                                  model, {.calibration = images()});
  const auto rows = pare::compare(model, coarse.model, images(1));
  REQUIRE_FALSE(rows.empty());
  CHECK(rows.back().layer == "output 0");
  CHECK(rows.back().cosine < 1.0);
  const auto stem = std::find_if(rows.begin(), rows.end(), [](const auto& row) { return row.layer == "depthwise"; });
  REQUIRE(stem != rows.end());
  CHECK(stem->sqnr_db > 40.0);
  CHECK(rows.back().sqnr_db < stem->sqnr_db);
  for (const auto& row : pare::compare(model, model, images(1))) CHECK(row.cosine == Approx(1.0));
}

TEST_CASE("layers get bits of their own", "[quantize]") {
  using namespace pare::literals;
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  SmallNet net;
  const auto model = pare::capture(net, torch::randn({2, 3, 10, 10}));
  const pare::Quantizer quantizer{.layer_weights = {{"project", 4_bits}, {"p*", 5_bits}, {"depth*", 3_bits}}};
  const auto applied = pare::apply(quantizer, model, {.calibration = images()});
  std::map<std::string, std::int64_t> largest;
  for (const auto id : applied.model.graph().nodes(pare::op(kChannel))) {
    const auto& node = applied.model.graph().node(id);
    largest[applied.model.graph().value(node.input(0)).name] = *node.operand("quant_max").integer();
  }
  CHECK(largest.at("stem.weight") == 127);
  CHECK(largest.at("project.weight") == 7);
  CHECK(largest.at("depthwise.weight") == 3);
  CHECK(applied.report.rows("project").back().reason.find("int4") != std::string::npos);
  using Exceptions = std::vector<std::pair<std::string, pare::Bits>>;
  const auto error = error_of([&] {
    (void)pare::apply(pare::Quantizer{.layer_weights = Exceptions{{"nowhere", 4_bits}}}, model,
                      {.calibration = images()});
  });
  CHECK(error == "pare.quantize.105 nowhere");
  CHECK(error_of([] {
          pare::Quantizer{.layer_weights = Exceptions{{"fc", 9_bits}}}.validate();
        }) == "pare.quantize.103 ");
}

TEST_CASE("a tied weight is rounded for the layers that want it, each in its own bits", "[quantize]") {
  using namespace pare::literals;
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  TiedHead net;
  const auto ids = torch::randint(0, 400, {4, 9});
  const auto model = pare::capture(net, torch::randint(0, 400, {2, 9}));
  const auto& table = net.words->weight;
  const auto products = model.graph().nodes(pare::op("aten::matmul"));
  REQUIRE(products.size() == 1);
  const auto head = model.graph().node(products.front()).name;
  // The table as a reader with this many levels sees it.
  const auto rounded = [&](const pare::Model& of, std::int64_t largest) -> torch::Tensor {
    for (const auto id : of.graph().nodes(pare::op(kChannel))) {
      const auto& node = of.graph().node(id);
      if (node.operand("quant_max").integer() == largest)
        return torch::fake_quantize_per_channel_affine(table, of.weight(node.input(1)), of.weight(node.input(2)), 0,
                                                       -largest, largest);
    }
    return {};
  };
  const auto forward = [&](const torch::Tensor& rows, const torch::Tensor& output) {
    return torch::matmul(torch::embedding(rows, ids), output.t());
  };

  SECTION("a float reader has the numbers as they were") {
    const auto applied =
        pare::apply(pare::Quantizer{.keep_float = {head}, .weights = 4_bits, .weight_only = true}, model);
    REQUIRE(rounded(applied.model, 7).defined());
    CHECK(torch::equal(applied.model.weight("words.weight"), table));
    CHECK(torch::equal(applied.model(ids), forward(rounded(applied.model, 7), table)));
    CHECK(applied.report.rows(head).back().reason == "kept float on request");
    CHECK(applied.report.rows("words").back().reason.find("other readers") != std::string::npos);
    CHECK(pare::WeightStorage(applied.model).bits("words.weight") == 32);
    CHECK(pare::sqnr_db(applied.model(ids), pare::compile(applied.model)(ids)) > 40.0);
  }
  SECTION("tied layers may differ") {
    const pare::Quantizer quantizer{.layer_weights = {{"words", 4_bits}, {head, 6_bits}}, .weight_only = true};
    const auto applied = pare::apply(quantizer, model);
    REQUIRE(count(applied.model, kChannel) == 2);
    CHECK(torch::equal(applied.model(ids), forward(rounded(applied.model, 7), rounded(applied.model, 31))));
    CHECK(pare::sqnr_db(applied.model(ids), pare::compile(applied.model)(ids)) > 40.0);
  }
  SECTION("bits of one are those of both") {
    const pare::Quantizer quantizer{.layer_weights = {{"words", 4_bits}}, .weight_only = true};
    const auto applied = pare::apply(quantizer, model);
    CHECK(count(applied.model, kChannel) == 1);
    CHECK(torch::equal(applied.model.weight("words.weight"), rounded(applied.model, 7)));
    CHECK(pare::WeightStorage(applied.model).bits("words.weight") == 4);
  }
}

TEST_CASE("a weight of one axis is quantized as a whole", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  Filter net;
  const auto x = torch::randn({16, 1, 32});
  const auto model = pare::capture(net, torch::randn({2, 1, 32}));
  const auto int8 = pare::apply(pare::Quantizer{}, model, {.calibration = pare::Batches{x}});
  CHECK(count(int8.model, kTensor) == 2);  // the taps and the input
  CHECK(int8.model.weight("taps").sizes() == net.taps.sizes());
  CHECK(pare::sqnr_db(net.forward(x), int8.model(x)) > 25.0);
}

TEST_CASE("integers that become numbers in a concatenation are rounded behind it", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  Masked net;
  const auto image = torch::randn({4, 3, 8, 8});
  for (const auto type : {torch::kLong, torch::kBool}) {
    const auto mask = torch::rand({4, 1, 8, 8}).gt(0.5).to(type);
    const auto model = pare::capture(net, std::make_tuple(image.narrow(0, 0, 2), mask.narrow(0, 0, 2)));
    const auto int8 =
        pare::apply(pare::Quantizer{}, model, {.calibration = pare::Batches{std::vector<pare::Batch>{{image, mask}}}});
    CHECK(count(int8.model, kTensor) == 1);
    CHECK(pare::sqnr_db(net.forward(image, mask), int8.model(image, mask)) > 25.0);
  }
}
