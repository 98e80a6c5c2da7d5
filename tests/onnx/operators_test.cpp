// Operators that the example models do not use: other runtimes compute them as LibTorch does.
#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/onnx/save.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/onnx/runtimes.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

using Tensors = std::vector<torch::Tensor>;
namespace F = torch::nn::functional;

// By a factor, which the sizes are rounded from.
torch::Tensor resized(const torch::Tensor& x, double factor, const F::InterpolateFuncOptions::mode_t& mode) {
  return F::interpolate(x, F::InterpolateFuncOptions().scale_factor(std::vector<double>{factor, factor}).mode(mode));
}

// The same by the overloads that take a list of factors.
Tensors resized_by_list(const torch::Tensor& x) {
  const std::vector<double> factors{1.4, 1.4};
  return {torch::upsample_nearest2d(x, std::nullopt, factors),
          torch::upsample_bilinear2d(x, std::nullopt, false, factors),
          torch::upsample_bicubic2d(x, std::nullopt, false, factors)};
}

torch::Tensor images(std::int64_t batch) { return torch::randn({batch, 4, 6, 6}); }

}  // namespace

TEST_CASE("functions of single elements leave as they are computed here", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(3);
  const auto forward = [](const Tensors& in) -> Tensors {
    const auto& x = in[0];
    const auto unit = torch::tanh(x) * 0.9, positive = x.abs() + 1.1;
    return {torch::softshrink(x, 0.4),
            torch::hardshrink(x, 0.3),
            torch::threshold(x, 0.2, -1),
            torch::rrelu(x, 0.1, 0.3, false),
            torch::log1p(positive),
            torch::expm1(unit),
            torch::log2(positive),
            torch::log10(positive),
            torch::exp2(unit),
            torch::tan(unit) + torch::atan(x) + torch::asin(unit) + torch::acos(unit),
            torch::sinh(unit) + torch::cosh(unit) + torch::asinh(x) + torch::acosh(positive) + torch::atanh(unit),
            torch::addcmul(x, unit, positive, 0.5),
            torch::addcdiv(x, unit, positive, 2),
            torch::lerp(x, positive, 0.25),
            torch::remainder(x, 0.7),
            torch::fmod(x, 0.7),
            torch::where(torch::isnan(torch::log(x)), unit, x),
            torch::where((~(x > 0) & (x > -1)) | (x > 2), x, unit)};
  };
  CHECK(difference(*python, forward, {images(2)}, {images(3)}) < 1e-5);
}

TEST_CASE("statistics, orders and lookups leave as they are computed here", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(4);
  const auto forward = [](const Tensors& in) -> Tensors {
    const auto& x = in[0];
    const auto rows = torch::tensor({3, -1, 0}), columns = torch::tensor({1, 0, -2});
    const auto [sorted, order] = torch::sort(x, 2, true);
    const auto [top, where] = torch::topk(x, 3, -1);
    const auto largest = x.argmax(-1);
    return {x.var(1),
            x.std({2, 3}, false, true),
            sorted,
            order.to(torch::kFloat),
            top,
            where.to(torch::kFloat),
            x.argsort(1, false).to(torch::kFloat),
            x.index({torch::indexing::Slice(), rows, columns}),
            torch::one_hot(largest, 6).to(torch::kFloat),
            torch::zeros_like(x).scatter(3, where, top),
            torch::zeros_like(x).scatter(3, where, 1.5),
            (x > 2).any(1).to(torch::kFloat) + (x > -2).all(1).to(torch::kFloat)};
  };
  CHECK(difference(*python, forward, {images(2)}, {images(3)}) < 1e-5);
}

TEST_CASE("patches, windows and circular borders leave as they are computed here", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(5);
  const auto forward = [](const Tensors& in) -> Tensors {
    const auto& x = in[0];
    const auto patches = F::unfold(x, F::UnfoldFuncOptions({3, 2}).padding({1, 0}).stride(2).dilation({1, 2}));
    const auto whole = F::unfold(x, F::UnfoldFuncOptions(3).padding(1));
    return {patches,
            F::fold(whole * 0.5, F::FoldFuncOptions({6, 6}, {3, 3}).padding(1)),
            F::fold(patches, F::FoldFuncOptions({6, 6}, {3, 2}).padding({1, 0}).stride(2).dilation({1, 2})),
            x.unfold(2, 4, 2).unfold(3, 3, 1),
            F::pad(x, F::PadFuncOptions({1, 2, 3, 0}).mode(torch::kCircular)),
            resized(x, 1.4, torch::kNearest),
            resized(x, 1.4, torch::kBilinear),
            resized(x, 0.7, torch::kBilinear),
            resized(x, 2.0, torch::kBicubic)};
  };
  CHECK(difference(*python, forward, {images(2)}, {images(3)}) < 1e-5);
}

TEST_CASE("rounding leaves with its decimals", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(7);
  const auto forward = [](const Tensors& in) -> Tensors {
    return {torch::round(in[0] * 3), torch::round(in[0], 2), torch::round(in[0] * 50, -1) / 50};
  };
  CHECK(difference(*python, forward, {images(2)}, {images(3)}) < 1e-5);
}

TEST_CASE("sizes that factors are rounded to are those of the factors", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(8);
  const auto forward = [](const Tensors& in) { return resized_by_list(in[0]); };
  CHECK(difference(*python, forward, {images(2)}, {images(3)}) < 1e-5);
}

TEST_CASE("bags, bilinear forms and shorthands for products leave as they are computed here", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(6);
  const torch::nn::Bilinear pairs(6, 6, 3);
  const torch::nn::EmbeddingBag sum(torch::nn::EmbeddingBagOptions(9, 6).mode(torch::kSum));
  const torch::nn::EmbeddingBag mean(torch::nn::EmbeddingBagOptions(9, 6).mode(torch::kMean));
  const auto forward = [&](const Tensors& in) -> Tensors {
    const auto& x = in[0];
    auto bags = sum, means = mean;
    auto bilinear = pairs;
    const auto a = bags(in[1]), b = means(in[1]);
    return {bilinear(a, b),
            torch::einsum("bchw,bdhw->bcd", {x, x * 2}),
            torch::einsum("bchw,b->chw", {x, a.sum(1)}),
            F::cosine_similarity(a, b),
            F::pairwise_distance(a, b),
            x.movedim(1, 3),
            torch::tensordot(x, x[0], {1}, {0})};
  };
  const auto ids = [](std::int64_t batch) { return torch::randint(0, 9, {batch, 5}, torch::kLong); };
  CHECK(difference(*python, forward, {images(2), ids(2)}, {images(3), ids(3)}) < 1e-5);
}
