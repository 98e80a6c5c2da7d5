// Where ONNX, or a runtime, means something else than LibTorch by an operator of the same name.
#include <torch/torch.h>

#include <limits>
#include <optional>

#include "pare/capture/capture.hpp"
#include "pare/onnx/save.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/onnx/onnx_reader.hpp"
#include "tests/onnx/runtimes.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

using Inputs = std::vector<torch::Tensor>;

pare::Model captured(const pare::FlatForward& forward, const Inputs& example,
                     const pare::CaptureOptions& options = {}) {
  torch::nn::Module module;
  return pare::capture_forward(module, forward, example, options);
}

OnnxFile written(const pare::FlatForward& forward, const Inputs& example, const pare::CaptureOptions& options = {}) {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  pare::onnx::save(captured(forward, example, options), folder.file("net.onnx"));
  return read_onnx(folder.file("net.onnx"));
}

const pare::CaptureOptions kFixed{.fixed_sizes = true};
const pare::CaptureOptions kVaryingLength{.dims = {{"batch", {{0, 0}}}, {"length", {{0, 2}}}}};

torch::Tensor ramp(std::vector<std::int64_t> sizes) {
  std::int64_t count = 1;
  for (const auto size : sizes) count *= size;
  return torch::arange(count, torch::kFloat).view(sizes);
}

torch::Tensor nearest(const torch::Tensor& x, std::int64_t size, std::optional<double> factor = {}) {
  return torch::upsample_nearest1d(x, at::IntArrayRef(size), factor);
}

torch::Tensor line(std::int64_t size) { return ramp({2, 1, size}); }

}  // namespace

TEST_CASE("a result that other layers read is an output by its own name", "[onnx]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(11);
  auto conv = torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 3, 3));
  auto point = torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 3, 1));
  const pare::FlatForward forward = [&](const Inputs& in) -> Inputs {
    const auto y = torch::relu(point(in[0])), z = torch::flip(in[0], {3});
    return {y, conv(torch::constant_pad_nd(y, {1, 1, 1, 1})), conv(torch::constant_pad_nd(z, {0, 1, 0, 1})), z};
  };
  CHECK(written(forward, {torch::randn({2, 3, 7, 7})}).count("Identity") == 0);
  // Inputs, constants and what is an output already keep their names.
  const pare::FlatForward twice = [](const Inputs& in) -> Inputs {
    const auto y = torch::relu(in[0]);
    return {y, y, in[0], torch::ones({3})};
  };
  CHECK(written(twice, {torch::randn({2, 3})}).count("Identity") == 3);
  const auto python = peers_python();
  if (!python) return;
  CHECK(difference(*python, forward, {torch::randn({2, 3, 7, 7})}, {torch::randn({3, 3, 7, 7})}) < 1e-5);
  CHECK(difference(*python, twice, {torch::randn({2, 3})}, {torch::randn({4, 3})}) == 0.0);
}

TEST_CASE("the nearest pixels are those of LibTorch", "[onnx]") {
  const pare::FlatForward doubled = [](const Inputs& in) -> Inputs { return {nearest(in[0], 12)}; };
  CHECK(written(doubled, {line(6)}, kFixed).count("Resize") == 1);
  CHECK(written(doubled, {line(6)}, kFixed).count("Gather") == 0);
  const pare::FlatForward seventh = [](const Inputs& in) -> Inputs { return {nearest(in[0], 2)}; };
  CHECK(written(seventh, {line(14)}, kFixed).count("Resize") == 0);
  CHECK(written(seventh, {line(14)}, kFixed).count("Gather") == 1);
  const auto python = peers_python();
  if (!python) return;
  const pare::FlatForward forward = [](const Inputs& in) -> Inputs {
    return {nearest(in[0], 2),
            nearest(in[1], 4),
            nearest(in[2], 32),
            nearest(in[2], 32, 1.0 / 7),
            nearest(in[0], 14, 1.03),
            nearest(in[0], 28, 2.03),
            torch::upsample_nearest2d(in[3], {17, 23}),
            torch::upsample_nearest2d(in[3], {7, 20}, 1.1, 2.04),
            torch::upsample_nearest2d(in[3], {8, 11}, 1.21, 1.13),
            torch::upsample_nearest3d(in[4], {4, 10, 5}, 1.1, 2.1, 1.1)};
  };
  const Inputs inputs{line(14), line(28), line(224), ramp({2, 3, 7, 10}), ramp({2, 1, 4, 5, 5})};
  CHECK(difference(*python, forward, inputs, inputs) == 0.0);
}

TEST_CASE("sizes that factors leave or double are copied", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(12);
  const pare::FlatForward forward = [](const Inputs& in) -> Inputs {
    const std::vector<double> factors{1.25, 0.77}, doubling{1.25, 2.3};
    return {torch::upsample_bilinear2d(in[0], std::nullopt, false, factors),
            torch::upsample_nearest2d(in[0], std::nullopt, doubling)};
  };
  CHECK(difference(*python, forward, {torch::randn({2, 9, 3, 3})}, {torch::randn({3, 9, 3, 3})}) < 1e-5);
}

TEST_CASE("bicubic factors that change no size are refused", "[onnx]") {
  const pare::FlatForward forward = [](const Inputs& in) -> Inputs {
    return {torch::upsample_bicubic2d(in[0], std::nullopt, false, std::vector<double>{1.2, 1.1})};
  };
  CHECK(raises("pare.onnx.101", [&] { written(forward, {torch::randn({2, 1, 3, 3})}); }));
}

TEST_CASE("softplus has its threshold where float32 shows it", "[onnx]") {
  const pare::FlatForward plain = [](const Inputs& in) -> Inputs { return {torch::softplus(in[0])}; };
  CHECK(written(plain, {torch::randn({2, 8})}).count("Where") == 0);
  const auto python = peers_python();
  if (!python) return;
  const pare::FlatForward forward = [](const Inputs& in) -> Inputs {
    return {torch::softplus(in[0]), torch::softplus(in[0], 1, 2), torch::softplus(in[0], 2, 1.5)};
  };
  const auto x = torch::linspace(-4, 40, 64).view({2, 32});
  CHECK(difference(*python, forward, {x}, {x + 0.1}) < 1e-6);
}

TEST_CASE("queries that see no key give zeros", "[onnx]") {
  const auto attention = [](const torch::Tensor& x, const torch::Tensor& mask) {
    return torch::scaled_dot_product_attention(x, x, x, mask);
  };
  constexpr auto kHidden = -std::numeric_limits<float>::infinity();
  const auto causal = torch::ones({4, 4}, torch::kBool).tril();
  const pare::FlatForward shown = [&](const Inputs& in) -> Inputs { return {attention(in[0], causal)}; };
  torch::manual_seed(13);
  CHECK(written(shown, {torch::randn({2, 2, 4, 8})}).count("Where") == 1);
  const auto python = peers_python();
  if (!python) return;
  const auto strict = torch::ones({4, 4}, torch::kBool).tril(-1);
  const pare::FlatForward forward = [&](const Inputs& in) -> Inputs {
    const auto& x = in[0];
    return {attention(x, strict), attention(x, torch::zeros({4, 4}).masked_fill(~strict, kHidden)), attention(x, in[1]),
            attention(x, torch::zeros_like(in[1], torch::kFloat).masked_fill(~in[1], kHidden)), attention(x, causal)};
  };
  const auto inputs = [](std::int64_t batch) -> Inputs {
    auto mask = torch::rand({batch, 1, 4, 4}) > 0.5;
    mask.select(2, 1).fill_(false);
    return {torch::randn({batch, 2, 4, 8}), mask};
  };
  CHECK(difference(*python, forward, inputs(2), inputs(3)) < 1e-5);
}

TEST_CASE("pooled sizes are LibTorch's where the last window starts behind the input", "[onnx]") {
  const pare::FlatForward mixed = [](const Inputs& in) -> Inputs {
    return {torch::max_pool2d(in[0], {2, 2}, {2, 2}, {1, 0}, 1, true)};  // [4, 3]: one rounded down, one up
  };
  CHECK(raises("pare.onnx.101", [&] { written(mixed, {torch::randn({2, 3, 7, 5})}); }));
  const pare::FlatForward may = [](const Inputs& in) -> Inputs {
    return {torch::max_pool1d(in[0], {2}, {2}, {1}, 1, true)};
  };
  CHECK(raises("pare.onnx.101", [&] { written(may, {torch::randn({2, 3, 8})}, kVaryingLength); }));
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(14);
  const pare::FlatForward forward = [](const Inputs& in) -> Inputs {
    const auto &x = in[0], &rows = in[1];
    return {torch::avg_pool2d(x, {3, 3}, {2, 2}, {1, 1}, true, true),
            torch::avg_pool2d(x, {3, 2}, {2, 3}, {1, 1}, true, false),
            torch::avg_pool2d(x, {2, 2}, {2, 2}, {0, 0}, true, true),
            torch::avg_pool1d(rows, {4}, {3}, {2}, true, true),
            torch::avg_pool1d(rows, {4}, {4}, {1}, true, false),
            torch::max_pool1d(rows, {2}, {4}, {1}, 1, true),
            torch::max_pool1d(rows, {3}, {2}, {1}, 2, true)};
  };
  const auto inputs = [](std::int64_t batch) -> Inputs {
    return {torch::randn({batch, 3, 7, 7}), torch::randn({batch, 3, 10})};
  };
  CHECK(difference(*python, forward, inputs(2), inputs(3)) < 1e-5);
  const pare::FlatForward never = [](const Inputs& in) -> Inputs {
    return {torch::max_pool1d(in[0], {3}, {2}, {1}, 1, true)};
  };
  CHECK(difference(*python, never, {torch::randn({2, 3, 8})}, {torch::randn({3, 3, 13})}, kVaryingLength) == 0.0);
}

TEST_CASE("flags and integers leave as what is computed of them here", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(15);
  const pare::FlatForward forward = [](const Inputs& in) -> Inputs {
    const auto &a = in[0], &b = in[1], &whole = in[2], small = whole.to(torch::kShort);
    const auto [largest, where] = a.max(1);
    return {a * b,
            a + b,
            torch::maximum(a, b),
            torch::minimum(a, b),
            a.amax(1),
            a.amin(0),
            largest,
            where,
            std::get<0>(a.sort(1)),
            torch::where(a, b, ~b),
            a.masked_fill(b, true),
            whole.floor() + whole.ceil() + whole.round(),
            torch::isnan(whole),
            small.amax(1),
            a.to(torch::kLong).square()};
  };
  const auto inputs = [](std::int64_t batch) -> Inputs {
    return {torch::rand({batch, 5}) > 0.5, torch::rand({batch, 5}) > 0.5, torch::randint(-5, 10, {batch, 5})};
  };
  CHECK(difference(*python, forward, inputs(4), inputs(3)) == 0.0);
}

TEST_CASE("integers of 64 bits keep all of them", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  static constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  static constexpr std::int64_t kOdd = 9007199254740993;  // 2^53 + 1, which no double is
  const pare::FlatForward forward = [](const Inputs& in) -> Inputs {
    const auto& x = in[0];
    return {x.clamp(0, kMost),
            x.masked_fill(x > 3, kMost) == kMost,
            (x + kOdd) - (kOdd - 1),
            torch::constant_pad_nd(x, {1, 0}, kOdd) - kOdd,
            torch::add(x, x, kOdd) - x * kOdd,
            torch::full_like(x, kOdd) - kOdd};
  };
  const auto inputs = [](std::int64_t batch) { return Inputs{torch::arange(-4, 4 * batch - 4).view({batch, 4})}; };
  CHECK(difference(*python, forward, inputs(4), inputs(3)) == 0.0);
}

TEST_CASE("what is filled like another tensor has that tensor's size", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(16);
  const pare::FlatForward forward = [](const Inputs& in) -> Inputs {
    const auto pooled = torch::max_pool1d(in[0], {4}, {3});
    const auto steps = pooled.transpose(1, 2);
    return {3 - pooled, torch::ones_like(pooled) + pooled, torch::full_like(pooled, 2.5),
            torch::scaled_dot_product_attention(steps, steps, steps, {}, 0.0, true)};
  };
  CHECK(difference(*python, forward, {torch::randn({4, 5, 8})}, {torch::randn({2, 5, 12})}, kVaryingLength) < 1e-6);
}

// ONNX Runtime cannot load operator set 21 where a signed DequantizeLinear, something that moves its integers and
// another operator than QuantizeLinear follow each other.
TEST_CASE("moved activations of few bits are quantized again at once", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  const torch::NoGradGuard no_grad;
  torch::manual_seed(17);
  auto conv = torch::nn::Conv1d(torch::nn::Conv1dOptions(4, 8, 3).padding(1));
  const pare::FlatForward forward = [&](const Inputs& in) -> Inputs {
    const auto pooled = torch::max_pool1d(conv(in[0]), 2);
    return {torch::matmul(pooled, pooled.transpose(1, 2))};
  };
  torch::nn::Module module;
  module.register_module("conv", conv);
  const auto model = pare::capture_forward(module, forward, {torch::randn({2, 4, 8})});
  const auto quantized =
      pare::apply(pare::Quantizer{.weights = pare::Bits{4}, .activations = pare::Bits{5}, .exact_scales = true}, model,
                  {.calibration = pare::Batches{torch::randn({16, 4, 8})}})
          .model;
  const Inputs inputs{torch::randn({3, 4, 8})};
  CHECK(difference(*python, quantized, inputs, quantized.run(inputs)) < 1e-4);
}
