// Depthwise convolutions of integers by the kernel of our own, against LibTorch's in float64 and inside models.
#include "src/execute/onednn/depthwise_kernel.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <string>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/execute/operator_cases.hpp"
#include "tests/execute/packed_steps.hpp"
#include "tests/support/catch.hpp"

namespace {

using torch::Tensor;

struct DepthwiseCase {
  int64_t channels, height, width, taps, stride, above, left, below, right;
};

void check_kernel(const DepthwiseCase& one) {
  INFO(one.channels << " x " << one.height << " x " << one.width << ", " << one.taps << " taps, stride " << one.stride);
  constexpr int kPadding = 17, kImages = 3, kLow = 3, kHigh = 250, kGuard = 99;
  const auto results = [&](int64_t size, int64_t pads) { return (size + pads - one.taps) / one.stride + 1; };
  const pare::DepthwiseShape shape{.images = kImages,
                                   .channels = one.channels,
                                   .height = one.height,
                                   .width = one.width,
                                   .result_height = results(one.height, one.above + one.below),
                                   .result_width = results(one.width, one.left + one.right),
                                   .taps = one.taps,
                                   .stride = one.stride,
                                   .pad_above = one.above,
                                   .pad_left = one.left};
  REQUIRE(pare::DepthwiseKernel::computes(shape));
  const auto weights = torch::randint(-127, 128, {one.channels, 1, one.taps, one.taps}).to(torch::kChar);
  const auto source = torch::randint(0, 256, {kImages, one.height, one.width, one.channels}).to(torch::kByte);
  const auto scale = torch::rand({one.channels}) * 4e-3, bias = torch::randn({one.channels}) * 100;
  pare::DepthwiseEpilogue epilogue{{}, {}, kLow, kHigh};
  epilogue.scale.assign(scale.const_data_ptr<float>(), scale.const_data_ptr<float>() + one.channels);
  epilogue.bias.assign(bias.const_data_ptr<float>(), bias.const_data_ptr<float>() + one.channels);
  const auto count = kImages * shape.result_height * shape.result_width * one.channels;
  const auto memory = torch::full({count + 64}, kGuard, torch::kByte);
  pare::DepthwiseKernel(shape, pare::DepthwiseKernel::pack(weights), epilogue, kPadding)
      .run(source.const_data_ptr<std::uint8_t>(), memory.mutable_data_ptr<std::uint8_t>());
  CHECK(memory.narrow(0, count, 64).eq(kGuard).all().item<bool>());  // nothing behind the end
  const auto padded = torch::constant_pad_nd(source.permute({0, 3, 1, 2}).to(torch::kDouble),
                                             {one.left, one.right, one.above, one.below}, kPadding);
  const auto sums = nn::functional::conv2d(padded, weights.to(torch::kDouble),
                                           nn::functional::Conv2dFuncOptions().stride(one.stride).groups(one.channels));
  const auto expected =
      (sums * scale.view({-1, 1, 1}) + bias.view({-1, 1, 1})).clamp(kLow, kHigh).permute({0, 2, 3, 1});
  const auto actual = memory.narrow(0, 0, count).view(expected.sizes()).to(torch::kDouble);
  CHECK((actual - expected).abs().max().item<double>() < 0.5001);
}

nn::Conv2dOptions windows(int64_t channels, torch::ExpandingArray<2> taps) {
  return nn::Conv2dOptions(channels, channels, taps).groups(channels);
}

// The name of the kernel that computes the depthwise layer, whose results are checked.
std::string kernel_of(const nn::Conv2dOptions& options, const Forward& activation) {
  Net net;
  auto depthwise = net.add("depthwise", nn::Conv2d(options));
  auto pointwise = net.add("pointwise", nn::Conv2d(nn::Conv2dOptions(options.out_channels(), 8, 1)));
  net.body = [=](const Tensor& y) mutable { return pointwise(activation(depthwise(y))); };
  const auto x = torch::randn({4, options.in_channels(), 13, 10}) + 0.4;  // a zero point that is not 0
  const auto int8 = pare::apply(pare::Quantizer{}, pare::capture(net, x), {.calibration = pare::Batches{x}}).model;
  const auto compiled = pare::compile(int8);
  for (const auto& other : {x, torch::randn({1, options.in_channels(), 13, 10}) * 3})
    CHECK(check_packed_steps(int8, compiled, {other}) >= 2);
  const auto rows = compiled.report().rows;
  const auto row = std::ranges::find(rows, "depthwise", &pare::ExecutionReport::Row::name);
  REQUIRE(row != rows.end());
  return row->implementation;
}

Tensor unchanged(const Tensor& x) { return x; }

bool has_kernel() {
  const pare::DepthwiseShape usual{.channels = 32, .taps = 3, .stride = 1, .pad_above = 0, .pad_left = 0};
  if (pare::DepthwiseKernel::computes(usual)) return true;
  WARN("skipped: this processor has no AVX-512 VNNI");
  return false;
}

}  // namespace

TEST_CASE("depthwise convolutions of integers, whatever channels, windows and borders", "[execute]") {
  if (!has_kernel()) return;
  torch::manual_seed(0);
  for (const int64_t channels : {16, 24, 31, 32, 33, 40, 64, 65, 96, 97, 144, 192})
    for (const int64_t taps : {3, 5, 7})
      for (const int64_t stride : {1, 2}) check_kernel({channels, 9, 8, taps, stride, 1, 1, 1, 1});
  check_kernel({32, 7, 7, 3, 2, 0, 0, 1, 1});   // TensorFlow's SAME
  check_kernel({48, 5, 11, 5, 1, 4, 0, 0, 4});  // one side only
  check_kernel({64, 1, 1, 3, 1, 1, 1, 1, 1});   // more border than image
  check_kernel({64, 2, 3, 7, 1, 6, 6, 6, 6});
  check_kernel({20, 3, 3, 3, 1, 0, 0, 0, 0});  // a single result
}

TEST_CASE("depthwise layers of a quantized model use it", "[execute]") {
  if (!has_kernel() || pare::execution_backend() == "ATen") return;
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  const std::string own = "depthwise_kernel";
  CHECK(kernel_of(windows(32, 3).padding(1), [](const Tensor& x) { return torch::clamp(x, 0, 6); }) == own);
  CHECK(kernel_of(windows(40, 3).padding(1).stride(2).bias(false), torch::relu) == own);
  CHECK(kernel_of(windows(16, 5).padding(2), [](const Tensor& x) { return torch::clamp(x, -0.2, 0.3); }) == own);
  CHECK(kernel_of(windows(70, 7).padding({3, 1}), unchanged) == own);
  // What it does not compute is oneDNN's.
  CHECK(kernel_of(windows(32, 3).padding(2).dilation(2), torch::relu) != own);
  CHECK(kernel_of(windows(32, {3, 5}), torch::relu) != own);
  CHECK(kernel_of(windows(32, 3).stride({2, 1}), torch::relu) != own);
  CHECK(kernel_of(windows(8, 3), torch::relu) != own);
  CHECK(kernel_of(windows(32, 4), torch::relu) != own);
  CHECK(kernel_of(windows(32, 3), torch::silu) != own);
  CHECK(kernel_of(nn::Conv2dOptions(32, 64, 3).groups(32), torch::relu) != own);
}
