#include "pare/quantize/learned_rounding.hpp"

#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/core/error.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"

namespace {

namespace nn = torch::nn;

// Batch norm, a residual sum, depthwise and strided layers, a projected shortcut, a linear head.
struct Net : nn::Module {
  Net() {
    stem = register_module("stem", nn::Conv2d(nn::Conv2dOptions(3, 16, 3).padding(1).bias(false)));
    norm = register_module("norm", nn::BatchNorm2d(16));
    depthwise = register_module("depthwise", nn::Conv2d(nn::Conv2dOptions(16, 16, 3).padding(1).groups(16)));
    project = register_module("project", nn::Conv2d(nn::Conv2dOptions(16, 16, 1)));
    down = register_module("down", nn::Conv2d(nn::Conv2dOptions(16, 32, 3).padding(1).stride(2)));
    shortcut = register_module("shortcut", nn::Conv2d(nn::Conv2dOptions(16, 32, 1).stride(2)));
    fc = register_module("fc", nn::Linear(32, 10));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(norm(stem(x)));
    y = torch::relu(project(torch::relu6(depthwise(y))) + y);
    y = torch::relu(down(y) + shortcut(y));
    return fc(y.mean({2, 3}));
  }
  nn::Conv2d stem{nullptr}, depthwise{nullptr}, project{nullptr}, down{nullptr}, shortcut{nullptr};
  nn::BatchNorm2d norm{nullptr};
  nn::Linear fc{nullptr};
};

// Neighbouring pixels alike, as in pictures.
torch::Tensor pictures(std::int64_t count) {
  return torch::avg_pool2d(torch::randn({count, 3, 14, 14}), 3, 1).mul(3.0);
}

pare::Applied quantized(const pare::Model& model, pare::Rounding rounding, int bits, const pare::Batches& calibration) {
  return pare::apply(pare::Quantizer{.weights = {bits}, .rounding = rounding}, model, {.calibration = calibration});
}

}  // namespace

TEST_CASE("learned rounding keeps more of the outputs than compensated and nearest rounding", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  Net net;
  const auto model = pare::capture(net, torch::randn({2, 3, 12, 12}));
  const pare::Batches calibration{pictures(32), pictures(32), pictures(32)};
  const auto x = pictures(64);
  const auto expected = net.forward(x);
  for (const int bits : {4, 3}) {
    const auto sqnr = [&](pare::Rounding rounding) {
      return pare::sqnr_db(expected, quantized(model, rounding, bits, calibration).model(x));
    };
    const double nearest = sqnr(pare::Rounding::Nearest), compensated = sqnr(pare::Rounding::Compensated),
                 learned = sqnr(pare::Rounding::Learned);
    INFO(bits << " bits: " << nearest << ", " << compensated << ", " << learned << " dB");
    CHECK(learned > nearest + 3.0);
    CHECK(learned > compensated + 0.5);
  }
}

TEST_CASE("learned rounding leaves weights on their grid, zeros where they were, and says so", "[quantize]") {
  torch::manual_seed(1);
  const torch::NoGradGuard no_grad;
  Net net;
  net.down->weight.index_put_({torch::rand_like(net.down->weight) < 0.5}, 0.0);
  const auto model = pare::capture(net, torch::randn({2, 3, 12, 12}));
  const auto before = net.down->weight.clone();
  const auto int4 = quantized(model, pare::Rounding::Learned, 4, {pictures(16)});
  const auto& graph = int4.model.graph();
  int layers = 0;
  for (const auto id : graph.nodes(pare::op("aten::fake_quantize_per_channel_affine"))) {
    const auto& node = graph.node(id);
    const auto& weight = int4.model.weight(node.input(0));
    std::vector<std::int64_t> shape(static_cast<std::size_t>(weight.dim()), 1);
    shape[0] = -1;
    const auto integers = weight / int4.model.weight(node.input(1)).reshape(shape);
    CHECK((integers - integers.round()).abs().max().item<float>() < 1e-3F);
    CHECK(integers.abs().max().item<float>() < 7.5F);
    ++layers;
  }
  CHECK(layers == 6);
  CHECK(int4.model.weight("down.weight").masked_select(before.eq(0)).eq(0).all().item<bool>());
  CHECK(torch::equal(net.down->weight, before));
  for (const auto* layer : {"stem", "depthwise", "project", "down", "shortcut", "fc"})
    CHECK(int4.report.rows(layer).back().reason.find("int4 per channel, learned rounding") != std::string::npos);
  // The same calibration gives the same weights, whatever the threads do.
  torch::manual_seed(1);
  const auto batch = pictures(16);
  const auto first = quantized(model, pare::Rounding::Learned, 4, {batch}).model;
  const auto second = quantized(model, pare::Rounding::Learned, 4, {batch}).model;
  CHECK(torch::allclose(first(batch), second(batch)));
}

TEST_CASE("learned rounding: layers it cannot take are rounded otherwise", "[quantize]") {
  torch::manual_seed(2);
  const torch::NoGradGuard no_grad;
  Net net;
  const auto model = pare::capture(net, torch::randn({2, 3, 12, 12}));
  const pare::Batches calibration{pictures(16)};
  const auto x = pictures(16);
  const auto reason = [](const pare::Applied& applied, const char* layer) {
    return applied.report.rows(layer).back().reason;
  };
  const auto learned = pare::Rounding::Learned;
  const auto per_tensor = pare::apply(pare::Quantizer{.granularity = pare::PerTensor{}, .rounding = learned}, model,
                                      {.calibration = calibration});
  CHECK(reason(per_tensor, "down").find("per tensor, error-compensated") != std::string::npos);
  const auto affine = pare::apply(pare::Quantizer{.symmetric_weights = false, .rounding = learned}, model,
                                  {.calibration = calibration});
  CHECK(reason(affine, "down").find("error-compensated") != std::string::npos);
  const auto narrow =
      pare::apply(pare::Quantizer{.rounding = learned, .max_features = 100}, model, {.calibration = calibration});
  CHECK(reason(narrow, "down").find("learned") == std::string::npos);
  CHECK(reason(narrow, "fc").find("learned") != std::string::npos);
  const auto mixed = pare::apply(pare::Quantizer{.weights = {8}, .layer_weights = {{"down", {4}}}, .rounding = learned},
                                 model, {.calibration = calibration});
  CHECK(reason(mixed, "down").find("int4 per channel, learned") != std::string::npos);
  CHECK(reason(mixed, "fc").find("int8 per channel, learned") != std::string::npos);
  for (const auto* applied : {&per_tensor, &affine, &narrow, &mixed})
    CHECK(pare::sqnr_db(net.forward(x), applied->model(x)) > 10.0);
}

TEST_CASE("learned rounding: batches without samples count for nothing", "[quantize]") {
  torch::manual_seed(4);
  const torch::NoGradGuard no_grad;
  Net net;
  const auto model = pare::capture(net, torch::randn({2, 3, 12, 12}));
  const auto x = pictures(16), none = pictures(0), y = pictures(8);
  for (const auto& calibration : {pare::Batches{x, none}, pare::Batches{none, x}}) {
    const auto applied = quantized(model, pare::Rounding::Learned, 4, calibration);
    CHECK(pare::sqnr_db(net.forward(y), applied.model(y)) > 10.0);
  }
}

TEST_CASE("learned rounding: bad options and calibration", "[quantize]") {
  torch::manual_seed(3);
  const torch::NoGradGuard no_grad;
  Net net;
  const auto model = pare::capture(net, torch::randn({2, 3, 12, 12}));
  const auto raises = [&](const pare::Batches& calibration, pare::LearnedRounding options, const char* id) {
    try {
      (void)pare::apply(pare::Quantizer{.weights = {4}, .rounding = pare::Rounding::Learned, .learned = options}, model,
                        {.calibration = calibration});
    } catch (const pare::Error& error) {
      CHECK(error.id() == id);
      return;
    }
    FAIL("no error " << id);
  };
  raises({}, {}, "pare.pass.102");
  raises({torch::full({4, 3, 12, 12}, NAN)}, {}, "pare.quantize.101");
  raises({pictures(4)}, {.samples = 0}, "pare.quantize.103");
  raises({pictures(4)}, {.solver = {.candidates = 0}}, "pare.quantize.103");
  raises({pictures(4)}, {.solver = {.smallest = 0.0}}, "pare.quantize.103");
  raises({pictures(4)}, {.solver = {.damping = -1.0}}, "pare.quantize.103");
}
