// Shapes at which a kernel of a library computes something else than its others, or nothing, and what is done about it.
#include <torch/torch.h>

#include <string>
#include <tuple>
#include <vector>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/execute/operator_cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace F = torch::nn::functional;
using torch::Tensor;

pare::Model quantized(const pare::Model& model, const Tensor& x) {
  return pare::apply(pare::Quantizer{}, model, {.calibration = pare::Batches{x}}).model;
}

// The integers of the simulation, at the batch of the capture and at others.
template <class Layer>
void check_packed(const std::string& name, Layer layer, const std::vector<int64_t>& sizes) {
  INFO(name);
  Net net;
  auto only = net.add("only", layer);
  net.body = [=](const Tensor& x) mutable { return only(x); };
  const auto drawn = [&](int64_t batch) {
    auto all = sizes;
    all.insert(all.begin(), batch);
    return torch::randn(all) + 0.3;  // a zero point that is not 0
  };
  const auto x = drawn(4);
  const auto int8 = quantized(pare::capture(net, x), x);
  const auto compiled = pare::compile(int8);
  for (const int64_t batch : {4, 1, 7}) {
    const auto other = drawn(batch);
    CHECK(pare::sqnr_db(int8(other), compiled(other)) > 45.0);
  }
}

}  // namespace

TEST_CASE("transposed convolutions of integers whose taps leave out results", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  using Options1 = nn::ConvTranspose1dOptions;
  using Options2 = nn::ConvTranspose2dOptions;
  using Options3 = nn::ConvTranspose3dOptions;
  check_packed("strides beyond the kernel",
               nn::ConvTranspose2d(Options2(9, 12, {1, 4}).stride({3, 1}).padding({0, 1}).dilation({1, 2})),
               {9, 4, 10});
  check_packed("a wide kernel over a short source", nn::ConvTranspose1d(Options1(3, 5, 4).stride(2).output_padding(1)),
               {3, 3});
  check_packed("the same in two dimensions", nn::ConvTranspose2d(Options2(3, 5, 4).stride(2).output_padding(1)),
               {3, 3, 3});
  check_packed("dilated volumes", nn::ConvTranspose3d(Options3(4, 6, 2).dilation(2)), {4, 3, 4, 5});
  check_packed("what a U-Net has", nn::ConvTranspose2d(Options2(8, 4, 3).stride(2).padding(1).output_padding(1)),
               {8, 6, 6});
}

TEST_CASE("volumes of integers, dilated and padded in depth", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  check_packed("depthwise",
               nn::Conv3d(nn::Conv3dOptions(8, 8, {2, 4, 1}).padding({1, 0, 0}).dilation({2, 1, 1}).groups(8)),
               {8, 4, 4, 4});
}

TEST_CASE("bf16 convolutions of one tap over an odd number of channels", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  for (const auto& [inputs, outputs] : {std::pair{9, 11}, {1, 1}, {1, 8}, {8, 9}}) {
    Net net;
    auto conv = net.add("conv", nn::Conv2d(nn::Conv2dOptions(inputs, outputs, 1)));
    net.body = [=](const Tensor& x) mutable { return conv(x); };
    const auto compiled =
        pare::compile(pare::capture(net, torch::randn({4, inputs, 10, 6})), {.dtype = torch::kBFloat16});
    for (const int64_t batch : {4, 1, 3}) {
      const auto x = torch::randn({batch, inputs, 10, 6});
      CHECK(pare::sqnr_db(net.forward(x), compiled(x)) > 35.0);
    }
  }
}

TEST_CASE("operators that take volumes with channels last for something else", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(4);
  const std::vector<std::tuple<std::string, int64_t, Forward>> bodies{
      {"nearest", 12,
       [](const Tensor& x) {
         return F::interpolate(x, F::InterpolateFuncOptions()
                                      .scale_factor(std::vector<double>{2.05, 2.05, 2.05})
                                      .mode(torch::kNearest)
                                      .recompute_scale_factor(false));
       }},
      {"pixel_shuffle", 4, [](const Tensor& x) { return torch::pixel_shuffle(x, 2); }},
      {"pixel_unshuffle", 1, [](const Tensor& x) { return torch::pixel_unshuffle(x, 2); }},
  };
  for (const auto& [name, channels, body] : bodies) {
    INFO(name);
    Net net;
    auto conv = net.add("conv", nn::Conv3d(nn::Conv3dOptions(4, channels, 1)));
    net.body = [=, after = body](const Tensor& x) mutable { return after(conv(x)); };
    const auto x = torch::randn({2, 4, 4, 4, 4});
    CHECK(pare::sqnr_db(net.forward(x), pare::compile(pare::capture(net, x))(x)) > 90.0);
  }
}

TEST_CASE("recurrent layers with layouts that only oneDNN reads serve every batch", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(5);
  for (const int64_t layers : {1, 2}) {
    Net net;
    auto gru = net.add("gru", nn::GRU(nn::GRUOptions(3, layers == 1 ? 1 : 4).num_layers(layers).batch_first(true)));
    net.body = [=](const Tensor& x) mutable { return std::get<0>(gru(x)); };
    const auto compiled = pare::compile(pare::capture(net, torch::randn({4, 1, 3})));
    for (const int64_t batch : {4, 1, 3}) {
      const auto x = torch::randn({batch, 1, 3});
      CHECK(torch::allclose(compiled(x), net.forward(x), 1e-4, 1e-5));
    }
  }
}

TEST_CASE("a float mask as large as the scores of one sample", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  Net net;
  const auto mask = net.register_buffer("mask", torch::randn({5, 5}));
  net.body = [=](const Tensor& x) { return torch::scaled_dot_product_attention(x, x, x, mask); };
  const auto x = torch::randn({4, 5, 8}), one = torch::randn({1, 5, 8});
  const auto int8 = quantized(pare::capture(net, x), x);
  CHECK(pare::sqnr_db(int8(one), pare::compile(int8)(one)) > 30.0);
}

TEST_CASE("an empty batch gives empty results", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(7);
  Net recurrent, transposed, total;
  auto lstm = recurrent.add("lstm", nn::LSTM(nn::LSTMOptions(8, 8).batch_first(true)));
  recurrent.body = [=](const Tensor& x) mutable { return std::get<0>(lstm(x)); };
  auto deconv = transposed.add("deconv", nn::ConvTranspose1d(nn::ConvTranspose1dOptions(5, 16, 3)));
  transposed.body = [=](const Tensor& x) mutable { return deconv(x); };
  total.body = [](const Tensor& x) { return torch::relu(x).sum(0); };
  const auto x = torch::randn({4, 5, 8}), none = torch::zeros({0, 5, 8});
  for (auto* net : {&recurrent, &transposed})
    for (const auto& model : {pare::capture(*net, x), quantized(pare::capture(*net, x), x)}) {
      const auto compiled = pare::compile(model);
      CHECK(compiled(none).sizes() == net->forward(none).sizes());
      CHECK(compiled(x).sizes() == net->forward(x).sizes());
    }
  if (pare::execution_backend() == "ATen") return;
  const auto compiled = pare::compile(pare::capture(total, x));
  CHECK(raises("pare.execute.104", [&] { static_cast<void>(compiled(none)); }));
  CHECK(raises("pare.execute.104", [&] { static_cast<void>(compiled.profile({none}, 0.01)); }));
}

TEST_CASE("numbers that only a flag says are negative", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(8);
  Net net;
  auto fc = net.add("fc", nn::Linear(6, 4));
  net.body = [=](const Tensor& x) mutable { return fc(x); };
  const auto x = torch::randn({3, 6});
  const auto compiled = pare::compile(pare::capture(net, x));
  const auto flagged = torch::_neg_view(x);
  REQUIRE(flagged.is_neg());
  CHECK(torch::allclose(compiled(flagged), net.forward(-x), 1e-4, 1e-5));
}
