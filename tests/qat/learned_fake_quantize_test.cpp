#include "pare/numerics/learned_fake_quantize.hpp"

#include <torch/torch.h>

#include <cmath>

#include "pare/numerics/batch_norm_folding.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using namespace pare::literals;

torch::Tensor one(double value) { return torch::tensor(value, torch::kFloat); }

}  // namespace

TEST_CASE("the forward is ATen's fake-quantize, bit for bit", "[qat]") {
  torch::manual_seed(0);
  auto x = torch::randn({6, 5, 7, 7}) * 3;
  x.view({-1}).narrow(0, 0, 9).copy_(
      torch::tensor({0.5F, 1.5F, -0.5F, 1e30F, -1e30F, INFINITY, -INFINITY, NAN, -0.0F}));
  for (const auto bits : {2_bits, 4_bits, 8_bits}) {
    for (const auto& grid : {pare::IntegerGrid::unsigned_affine(bits), pare::IntegerGrid::signed_symmetric(bits)}) {
      const auto chosen = pare::choose_qparams({-2.5, 3.1}, grid);
      const auto plain = pare::fake_quantize(x, chosen);
      const auto learned =
          pare::learned_fake_quantize(x, one(chosen.scale), one(static_cast<double>(chosen.zero_point)), {grid});
      CHECK(torch::equal(plain, learned));
      const auto last = x.contiguous(torch::MemoryFormat::ChannelsLast);
      CHECK(torch::equal(plain, pare::learned_fake_quantize(last, one(chosen.scale),
                                                            one(static_cast<double>(chosen.zero_point)), {grid})));

      const auto scale = torch::rand({5}) + 0.01;
      const auto zero = torch::full({5}, static_cast<double>(chosen.zero_point));
      const auto per_channel =
          torch::fake_quantize_per_channel_affine(x, scale, zero.to(torch::kInt), 1, grid.min, grid.max);
      CHECK(torch::equal(per_channel, pare::learned_fake_quantize(x, scale, zero, {grid, 1})));
    }
  }
}

TEST_CASE("gradients pass where values do not saturate", "[qat]") {
  const pare::LearnedFakeQuantize how{pare::IntegerGrid::signed_symmetric(4_bits)};
  auto x = torch::tensor({-9.0F, -7.4F, -0.3F, 0.0F, 3.2F, 7.4F, 7.6F, 100.0F}).requires_grad_(true);
  pare::learned_fake_quantize(x, one(1.0), one(0.0), how).backward(torch::arange(1, 9, torch::kFloat));
  CHECK(torch::equal(x.grad(), torch::tensor({0.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F, 0.0F, 0.0F})));
}

TEST_CASE("scale and offset learn by the formulas of LSQ, LSQ+ and PACT", "[qat]") {
  torch::manual_seed(1);
  const pare::IntegerGrid grid = pare::IntegerGrid::unsigned_affine(3_bits);
  const auto x = torch::randn({4, 3, 40, 50}) * 2;
  const auto g = torch::randn_like(x);
  for (const auto rule : {pare::ScaleGradient::Rounding, pare::ScaleGradient::Clipping}) {
    auto scale = one(0.37).requires_grad_(true);
    auto zero = one(3.2).requires_grad_(true);  // counts as 3
    pare::learned_fake_quantize(x, scale, zero, {grid, -1, rule, 0.5}).backward(g);

    const auto steps = x.to(torch::kDouble) / 0.37F;
    const auto rounded = steps.round() + 3;
    const auto inside = rounded.ge(0).logical_and(rounded.le(7));
    const auto q = rounded.clamp(0, 7) - 3;
    const auto error = rule == pare::ScaleGradient::Rounding ? q - steps : torch::zeros_like(q);
    const auto by_scale = 0.5 * (g * torch::where(inside, error, q)).sum();
    const auto by_zero = 0.5 * (g * torch::where(inside, torch::zeros_like(q), torch::full_like(q, -0.37))).sum();
    CHECK(scale.grad().item<double>() == Approx(by_scale.item<double>()).epsilon(1e-4).margin(1e-2));
    CHECK(zero.grad().item<double>() == Approx(by_zero.item<double>()).epsilon(1e-4).margin(1e-2));
  }
  CHECK(pare::lsq_gradient_scale(100, pare::IntegerGrid::signed_symmetric(4_bits)) == Approx(1 / std::sqrt(700.0)));
  CHECK(pare::lsq_gradient_scale(100, pare::IntegerGrid::unsigned_affine(4_bits)) == Approx(1 / std::sqrt(1500.0)));
}

TEST_CASE("where values saturate, finite differences agree with the gradients", "[qat]") {
  // Far outside the grid the rounding is locally constant in x and linear in the scale: both are exact.
  const pare::LearnedFakeQuantize how{pare::IntegerGrid::signed_symmetric(4_bits), -1, pare::ScaleGradient::Clipping};
  const auto x = torch::tensor({30.0F, -40.0F, 25.0F});
  auto scale = one(1.0).requires_grad_(true);
  const auto loss = [&](const torch::Tensor& s) {
    return (pare::learned_fake_quantize(x, s, one(0.0), how) * torch::tensor({1.0F, 2.0F, 3.0F})).sum();
  };
  loss(scale).backward();
  const auto numeric = (loss(one(1.01)) - loss(one(0.99))).item<double>() / 0.02;
  CHECK(scale.grad().item<double>() == Approx(numeric).epsilon(1e-4));
}

TEST_CASE("the fused backward pass and the general one agree, channels included", "[qat]") {
  torch::manual_seed(2);
  const auto grid = pare::IntegerGrid::signed_symmetric(2_bits);
  const auto x = torch::randn({3, 4, 5, 6});
  const auto g = torch::randn_like(x);
  auto scales = (torch::rand({4}) + 0.3).requires_grad_(true);
  auto values = x.clone().requires_grad_(true);
  pare::learned_fake_quantize(values, scales, torch::zeros({4}), {grid, 1}).backward(g);
  for (std::int64_t channel = 0; channel < 4; ++channel) {
    auto part = x.select(1, channel).contiguous().requires_grad_(true);
    auto scale = scales.detach()[channel].clone().requires_grad_(true);
    pare::learned_fake_quantize(part, scale, one(0.0), {grid}).backward(g.select(1, channel));
    CHECK(torch::equal(part.grad(), values.grad().select(1, channel)));
    CHECK(scale.grad().item<double>() == Approx(scales.grad()[channel].item<double>()).epsilon(1e-4).margin(1e-4));
  }
  auto last = x.to(torch::kFloat).contiguous(at::MemoryFormat::ChannelsLast).requires_grad_(true);
  auto first = x.clone().requires_grad_(true);
  pare::learned_fake_quantize(last, one(0.4), one(0.0), {grid}).backward(g);
  pare::learned_fake_quantize(first, one(0.4), one(0.0), {grid}).backward(g);
  CHECK(torch::equal(last.grad(), first.grad()));
}

TEST_CASE("a scale that is NaN or does not fit is one error, and one below zero stays positive", "[qat]") {
  const auto x = torch::randn({2, 3});
  const pare::LearnedFakeQuantize how{};
  CHECK(raises("pare.numerics.107", [&] { (void)pare::learned_fake_quantize(x, one(NAN), one(0), how); }));
  CHECK(raises("pare.numerics.107", [&] { (void)pare::learned_fake_quantize(x, one(1), one(INFINITY), how); }));
  CHECK(raises("pare.numerics.105", [&] {
    (void)pare::learned_fake_quantize(x, torch::ones({2}), torch::zeros({2}), {how.grid, 1});
  }));
  CHECK(raises("pare.numerics.105", [&] {
    (void)pare::learned_fake_quantize(x, torch::ones({3}), torch::zeros({2}), {how.grid, 1});
  }));
  CHECK(torch::isfinite(pare::learned_fake_quantize(x, one(-0.5), one(0), how)).all().item<bool>());
}

TEST_CASE("a folded layer computes what layer and batch norm did", "[qat]") {
  torch::manual_seed(3);
  const auto x = torch::randn({2, 4, 6, 6}).to(torch::kDouble);
  const auto weight = torch::randn({4, 3, 3, 3}).to(torch::kDouble);  // transposed: [in, out / groups, ...]
  const auto mean = torch::randn({6}).to(torch::kDouble), variance = torch::rand({6}).to(torch::kDouble) + 0.5;
  const auto gamma = torch::randn({6}).to(torch::kDouble), beta = torch::randn({6}).to(torch::kDouble);
  const auto bias = torch::randn({6}).to(torch::kDouble);
  const auto affine = pare::batch_norm_affine(gamma, beta, mean, variance, 1e-5);
  const auto normed = torch::batch_norm(torch::conv_transpose2d(x, weight, bias, 1, 0, 0, 2), gamma, beta, mean,
                                        variance, false, 0.1, 1e-5, false);
  const auto folded = torch::conv_transpose2d(x, pare::fold_weight(weight, affine, 1, 2),
                                              pare::fold_bias(bias, affine, torch::kDouble), 1, 0, 0, 2);
  CHECK(torch::allclose(normed, folded, 1e-9, 1e-9));
}
