#include <torch/torch.h>

#include <algorithm>

#include "pare/capture/capture.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/compare.hpp"
#include "pare/quantize/cross_layer_equalization.hpp"
#include "pare/quantize/quantizer.hpp"
#include "pare/quantize/smooth_quant.hpp"
#include "tests/support/catch.hpp"

namespace {

namespace nn = torch::nn;

struct PreNorm : nn::Module {
  PreNorm() {
    norm = register_module("norm", nn::LayerNorm(nn::LayerNormOptions({12})));
    query = register_module("query", nn::Linear(12, 8));
    value = register_module("value", nn::Linear(nn::LinearOptions(12, 8).bias(false)));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = norm(x);
    return x.narrow(-1, 0, 8) + query(y) * value(y);
  }
  nn::LayerNorm norm{nullptr};
  nn::Linear query{nullptr}, value{nullptr};
};

struct PostNorm : nn::Module {
  PostNorm() {
    norm = register_module("norm", nn::LayerNorm(nn::LayerNormOptions({12})));
    fc = register_module("fc", nn::Linear(12, 12));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = norm(x);
    return y + fc(y);
  }
  nn::LayerNorm norm{nullptr};
  nn::Linear fc{nullptr};
};

// Two layers behind the dropout of one activation.
struct FeedForward : nn::Module {
  FeedForward() {
    up = register_module("up", nn::Linear(12, 16));
    drop = register_module("drop", nn::Dropout(0.5));
    down = register_module("down", nn::Linear(16, 12));
    gate = register_module("gate", nn::Linear(16, 12));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = drop(torch::relu(up(x)));
    return down(y) * gate(y);
  }
  nn::Linear up{nullptr}, down{nullptr}, gate{nullptr};
  nn::Dropout drop{nullptr};
};

// A convolution whose result a linear layer reads along time.
struct OverTime : nn::Module {
  OverTime() {
    conv = register_module("conv", nn::Conv1d(nn::Conv1dOptions(4, 16, 3).padding(1)));
    fc = register_module("fc", nn::Linear(16, 5));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) { return fc(torch::relu(conv(x))); }
  nn::Conv1d conv{nullptr};
  nn::Linear fc{nullptr};
};

}  // namespace

TEST_CASE("cross-layer equalization keeps the function and evens the ranges", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  nn::Sequential net(nn::Conv2d(nn::Conv2dOptions(3, 8, 3)), nn::ReLU(),
                     nn::Conv2d(nn::Conv2dOptions(8, 8, 3).groups(8)), nn::ReLU(),
                     nn::Conv2d(nn::Conv2dOptions(8, 4, 1)));
  auto first = net->ptr<nn::Conv2dImpl>(0), depthwise = net->ptr<nn::Conv2dImpl>(2);
  first->weight.mul_(torch::logspace(-2, 2, 8).reshape({8, 1, 1, 1}));
  depthwise->weight[3].zero_();  // a dead channel
  const auto model = pare::capture(*net, torch::randn({2, 3, 9, 9}));
  const auto even = pare::apply(pare::CrossLayerEqualization{}, model);
  CHECK(even.report.count(pare::Decision::Done) == 2);
  const auto x = torch::randn({2, 3, 9, 9});
  CHECK(torch::allclose(even.model(x), net->forward(x), 1e-4, 1e-4));
  const auto spread = [](const torch::Tensor& weight) {
    const auto ranges = weight.abs().amax({1, 2, 3});
    return (ranges.max() / ranges.median()).item<double>();
  };
  CHECK(spread(even.model.weight("0.weight")) < spread(first->weight) / 3);
  CHECK(torch::equal(model(x), net->forward(x)));
}

TEST_CASE("equalization declines ReLU6 and says why", "[quantize]") {
  nn::Sequential net(nn::Conv2d(nn::Conv2dOptions(3, 8, 3)), nn::ReLU6(), nn::Conv2d(nn::Conv2dOptions(8, 4, 1)));
  net->eval();
  const auto model = pare::capture(*net, torch::randn({2, 3, 9, 9}));
  const auto result = pare::apply(pare::CrossLayerEqualization{}, model);
  CHECK(result.report.count(pare::Decision::Done) == 0);
  CHECK(result.report.rows("0").front().reason == "its activation is not homogeneous");
}

TEST_CASE("equalization declines a reader that mixes positions, not channels", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  OverTime net;
  net.conv->weight.mul_(torch::logspace(-2, 2, 16).reshape({16, 1, 1}));
  const auto x = torch::randn({3, 4, 16});  // as many positions as channels
  const auto model = pare::capture(net, torch::randn({2, 4, 16}));
  const auto result = pare::apply(pare::CrossLayerEqualization{}, model);
  CHECK(result.report.count(pare::Decision::Done) == 0);
  CHECK(result.report.rows("conv").front().reason == "its reader sees other channels");
  CHECK(torch::allclose(result.model(x), net.forward(x), 1e-5, 1e-5));
}

TEST_CASE("smoothing keeps the function and narrows the activations' spread", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  PreNorm net;
  net.norm->weight[4] = 60.0F;
  const auto model = pare::capture(net, torch::randn({2, 5, 12}));
  const auto x = torch::randn({6, 5, 12});
  const auto smooth = pare::apply(pare::SmoothQuant{}, model, {.calibration = pare::Batches{x}});
  CHECK(smooth.report.count(pare::Decision::Done) == 1);
  CHECK(torch::allclose(smooth.model(x), net.forward(x), 1e-3, 1e-3));
  const auto gain = smooth.model.weight("norm.weight").abs();
  CHECK((gain.max() / gain.median()).item<double>() < 30.0);
}

TEST_CASE("where a residual reads the norm too, smoothing multiplies on the layers' way", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  PostNorm net;
  net.norm->weight[4] = 60.0F;
  const auto model = pare::capture(net, torch::randn({2, 5, 12}));
  const auto x = torch::randn({6, 5, 12});
  const auto smooth = pare::apply(pare::SmoothQuant{}, model, {.calibration = pare::Batches{x}});
  CHECK(smooth.report.count(pare::Decision::Done) == 1);
  CHECK(smooth.model.weights().contains("norm.smooth"));
  CHECK(torch::equal(smooth.model.weight("norm.weight"), net.norm->weight));
  CHECK(torch::allclose(smooth.model(x), net.forward(x), 1e-3, 1e-3));

  SECTION("and the integer model is nearer to the float one") {
    const auto plain = pare::apply(pare::Quantizer{.smooth = false}, model, {.calibration = pare::Batches{x}});
    const auto better = pare::apply(pare::Quantizer{}, model, {.calibration = pare::Batches{x}});
    const auto y = net.forward(x);
    CHECK(pare::sqnr_db(y, better.model(x)) > pare::sqnr_db(y, plain.model(x)) + 3);
  }
}

TEST_CASE("smoothing leaves even channels alone", "[quantize]") {
  torch::manual_seed(0);
  PostNorm net;
  const auto model = pare::capture(net, torch::randn({2, 5, 12}));
  const auto result = pare::apply(pare::SmoothQuant{}, model, {.calibration = pare::Batches{torch::randn({6, 5, 12})}});
  CHECK(result.report.count(pare::Decision::Done) == 0);
  CHECK(result.report.rows("norm").front().reason.starts_with("its channels are even"));
}

TEST_CASE("smoothing leaves dropout between an activation and its readers", "[quantize]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  FeedForward net;
  net.up->weight[4].mul_(60.0F);
  const auto model = pare::capture(net, torch::randn({2, 5, 12}));
  const auto x = torch::randn({6, 5, 12});
  auto smooth = pare::apply(pare::SmoothQuant{}, model, {.calibration = pare::Batches{x}});
  REQUIRE(smooth.report.count(pare::Decision::Done) == 1);
  CHECK(torch::allclose(smooth.model(x), net.forward(x), 1e-3, 1e-3));
  const auto& graph = smooth.model.graph();
  const auto dropout = graph.nodes(pare::op("aten::dropout"));
  REQUIRE(dropout.size() == 1);
  const auto& uses = graph.uses(graph.node(dropout.front()).output());
  REQUIRE(uses.size() == 1);  // one product for both layers
  CHECK(graph.node(uses.front().node).name.ends_with(".smooth"));
  smooth.model.train();
  CHECK_FALSE(torch::equal(smooth.model(x), smooth.model(x)));
}

TEST_CASE("equalization declines channels that a padding moves", "[quantize]") {
  torch::manual_seed(3);
  const torch::NoGradGuard no_grad;
  struct Shift : nn::Module {
    Shift() {
      a = register_module("a", nn::Conv2d(nn::Conv2dOptions(4, 8, 3)));
      b = register_module("b", nn::Conv2d(nn::Conv2dOptions(8, 4, 3)));
      eval();
    }
    torch::Tensor forward(const torch::Tensor& x) {
      const auto pads = moved ? std::vector<int64_t>{0, 0, 0, 0, 1, -1} : std::vector<int64_t>{1, 1, 0, 2};
      return b(torch::constant_pad_nd(torch::relu(a(x)), pads));
    }
    bool moved = true;
    nn::Conv2d a{nullptr}, b{nullptr};
  } net;
  net.a->weight.mul_(torch::logspace(-2, 2, 8).reshape({8, 1, 1, 1}));
  const auto x = torch::randn({2, 4, 9, 9});
  for (const bool moved : {true, false}) {
    net.moved = moved;
    const auto even = pare::apply(pare::CrossLayerEqualization{}, pare::capture(net, x));
    CHECK(even.report.count(pare::Decision::Done) == (moved ? 0 : 1));
    CHECK(torch::allclose(even.model(x), net.forward(x), 1e-4, 1e-4));
  }
}

TEST_CASE("equalization lets no bias outgrow the others", "[quantize]") {
  torch::manual_seed(4);
  const torch::NoGradGuard no_grad;
  nn::Sequential net(nn::Conv2d(nn::Conv2dOptions(3, 8, 3)), nn::ReLU(), nn::Conv2d(nn::Conv2dOptions(8, 4, 3)));
  net->eval();
  auto first = net->ptr<nn::Conv2dImpl>(0);
  first->weight[3].mul_(1e-10);  // what folding leaves of a batch norm without gain
  first->bias[3].fill_(0.5);
  const auto x = torch::randn({4, 3, 9, 9});
  const auto even = pare::apply(pare::CrossLayerEqualization{}, pare::capture(*net, x)).model;
  CHECK(even.weight("0.bias").abs().max().item<double>() < 5.0);
  const auto int8 = pare::apply(pare::Quantizer{}, even, {.calibration = pare::Batches{x}}).model;
  CHECK(pare::sqnr_db(net->forward(x), int8(x)) > 30.0);
}

TEST_CASE("layers that a batch norm was folded into are compared behind it", "[quantize]") {
  torch::manual_seed(5);
  const torch::NoGradGuard no_grad;
  nn::BatchNorm2d one(8), two(8);
  for (auto* norm : {&one, &two})
    (*norm)->running_mean.normal_(), (*norm)->running_var.uniform_(0.1, 2), (*norm)->bias.normal_();
  nn::Sequential net(nn::Conv2d(nn::Conv2dOptions(3, 8, 3)), one, two, nn::ReLU(),
                     nn::Conv2d(nn::Conv2dOptions(8, 4, 3)));
  net->eval();
  const auto x = torch::randn({4, 3, 9, 9});
  const auto model = pare::capture(*net, x);
  const auto folded = pare::apply(pare::FoldBatchNorm{}, model).model;
  const auto rows = pare::compare(model, folded, pare::Batches{x});
  CHECK(std::ranges::any_of(rows, [](const auto& row) { return row.layer == "0"; }));
  for (const auto& row : rows) {
    INFO(row.layer);
    CHECK(row.sqnr_db > 100.0);
  }
}

TEST_CASE("attention whose inputs are the same view, written three times, is quantized", "[quantize]") {
  torch::manual_seed(6);
  const torch::NoGradGuard no_grad;
  struct Attention : nn::Module {
    Attention() {
      attention = register_module("attention", nn::MultiheadAttention(32, 4));
      eval();
    }
    torch::Tensor forward(const torch::Tensor& x) {
      const auto result = attention(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1));
      return std::get<0>(result).transpose(0, 1);
    }
    nn::MultiheadAttention attention{nullptr};
  } net;
  const auto x = torch::randn({4, 16, 32}), other = torch::randn({2, 16, 32});
  const auto int8 = pare::apply(pare::Quantizer{}, pare::capture(net, x), {.calibration = pare::Batches{x}}).model;
  CHECK(pare::sqnr_db(net.forward(other), int8(other)) > 20.0);
}
