#include <torch/torch.h>

#include "pare/numerics/compensated_rounding.hpp"
#include "pare/numerics/optimal_brain_surgeon.hpp"
#include "pare/numerics/schedule.hpp"
#include "pare/numerics/sparsity_pattern.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

TEST_CASE("schedules start, end and change when they say", "[schedule]") {
  using Shape = pare::Schedule::Shape;
  for (const auto shape : {Shape::OneShot, Shape::Linear, Shape::Cubic, Shape::OneCycle}) {
    const pare::Schedule schedule{.shape = shape, .from = 0.1, .to = 0.9, .begin = 10, .end = 110, .every = 20};
    CHECK(schedule.at(0) == 0.1);
    CHECK(schedule.at(10) == 0.1);
    CHECK(schedule.at(110) == 0.9);
    CHECK(schedule.at(1000) == 0.9);
    CHECK(schedule.at(49) == schedule.at(30));
    for (std::int64_t step = 0; step < 120; ++step) CHECK(schedule.at(step) <= schedule.at(step + 1));
  }
  const pare::Schedule cubic{.to = 0.8, .begin = 0, .end = 100};
  CHECK(cubic.at(50) == Approx(0.8 * (1 - 0.125)));
  const pare::Schedule linear{.shape = Shape::Linear, .to = 0.8, .end = 100};
  CHECK(linear.at(25) == Approx(0.2));
  const pare::Schedule cycle{.shape = Shape::OneCycle, .end = 100};
  CHECK(cycle.at(1) < 0.01);
  CHECK(cycle.at(36) == Approx(0.5).margin(0.05));
  const pare::Schedule rare{.begin = 10, .end = 25, .every = 10};
  CHECK(rare.due(10));
  CHECK_FALSE(rare.due(15));
  CHECK(rare.due(20));
  CHECK(rare.due(25));
  CHECK_FALSE(rare.due(30));
  CHECK(raises("pare.numerics.121", [] { pare::Schedule{.begin = 5, .end = 5}.validate(); }));
  CHECK(raises("pare.numerics.121", [] { pare::Schedule{.end = 5, .every = 0}.validate(); }));
  CHECK(raises("pare.numerics.121", [] { (void)pare::Schedule{.end = 5, .every = 0}.at(3); }));
  CHECK(raises("pare.numerics.121", [] { (void)pare::Schedule{.end = 5, .every = 0}.due(3); }));
}

TEST_CASE("patterns keep what they may", "[sparsity]") {
  torch::manual_seed(0);
  const auto saliency = torch::rand({16, 8 * 9});
  const auto any = pare::choose_mask(saliency, 100, pare::Unstructured{}, 9);
  CHECK(any.sum().item<std::int64_t>() == 100);
  CHECK(saliency.masked_select(any).min().item<float>() >
        saliency.masked_select(any.logical_not()).max().item<float>());

  const auto half = pare::choose_mask(saliency, 0, pare::NofM{2, 4}, 9);
  // Along the input channels of one tap: [rows, channels, taps].
  const auto groups = half.view({16, 2, 4, 9}).sum(2);
  CHECK(groups.eq(2).all().item<bool>());

  const auto blocks = pare::choose_mask(saliency, 16 * 72 / 4, pare::Blocks{4, 4}, 9);
  CHECK(blocks.sum().item<std::int64_t>() == 16 * 72 / 4 / 16 * 16);
  const auto sums = blocks.view({4, 4, 2, 4, 9}).sum({1, 3});
  CHECK(sums.eq(0).logical_or(sums.eq(16)).all().item<bool>());

  CHECK(pare::choose_mask(saliency, 16 * 18, pare::Blocks{16, 1}, 9).sum(0).remainder(16).eq(0).all().item<bool>());
  CHECK(raises("pare.numerics.122", [&] { (void)pare::choose_mask(torch::rand({4, 6}), 4, pare::NofM{2, 4}); }));
  CHECK(raises("pare.numerics.122", [&] { (void)pare::choose_mask(torch::rand({6, 4}), 4, pare::Blocks{4, 4}); }));
  CHECK(raises("pare.numerics.122", [&] { (void)pare::choose_mask(torch::rand({4, 6}), 4, pare::NofM{2, 0}); }));
  CHECK(raises("pare.numerics.122", [&] { (void)pare::choose_mask(torch::rand({4, 6}), 4, pare::Blocks{0, 1}); }));
  CHECK(raises("pare.numerics.122", [&] {
    (void)pare::choose_mask(torch::full({4, 4}, std::nan("")), 4, pare::Unstructured{});
  }));
}

TEST_CASE("fewer samples than features, undamped, leave finite weights", "[sparsity]") {
  torch::manual_seed(1);
  const auto x = torch::randn({8, 24}, torch::kDouble);
  const auto weight = torch::randn({4, 24});
  const auto mask = torch::rand({4, 24}).gt(0.3);
  const auto solved = pare::OptimalBrainSurgeon{.damping = 0}(weight, mask, torch::matmul(x.t(), x) / 8);
  CHECK(torch::isfinite(solved.weight).all().item<bool>());
  CHECK(torch::matmul(x, (solved.weight - weight).t().to(torch::kDouble)).abs().max().item<double>() < 0.1);
}

TEST_CASE("what stays makes up for what goes, as well as least squares can", "[sparsity]") {
  torch::manual_seed(0);
  constexpr std::int64_t kRows = 6, kFeatures = 40;
  const auto mixing = torch::randn({kFeatures, kFeatures}) + 2 * torch::eye(kFeatures);
  const auto x = torch::matmul(torch::randn({2000, kFeatures}), mixing);
  const auto hessian = torch::matmul(x.t(), x).to(torch::kDouble) / 2000;
  const auto weight = torch::randn({kRows, kFeatures});
  const auto mask = torch::rand({kRows, kFeatures}).gt(0.6);
  const auto damage = [&](const torch::Tensor& other) {
    return torch::matmul(x, (other - weight).t()).square().sum().item<double>();
  };
  const pare::OptimalBrainSurgeon exact{.damping = 1e-6};
  const auto solved = exact(weight, mask, hessian);
  CHECK(solved.exact);
  CHECK(solved.weight.masked_select(mask.logical_not()).abs().max().item<float>() == 0);
  CHECK(damage(solved.weight) < 0.75 * damage(weight * mask));
  // No small change of a kept weight is any better.
  for (int trial = 0; trial < 20; ++trial)
    CHECK(damage(solved.weight + 0.01 * torch::randn_like(weight) * mask) >= damage(solved.weight));
  // The saliency is the price of one weight more.
  const auto row = 2, column = mask[row].nonzero()[3].item<int>();
  auto fewer = mask.clone();
  fewer[row][column] = false;
  const auto price = (damage(exact(weight, fewer, hessian).weight) - damage(solved.weight)) / 2000;
  const auto said = solved.weight[row][column].square() / solved.inverse_diagonal[row][column];
  CHECK(price == Approx(said.item<double>()).epsilon(0.02));

  const auto swept = pare::OptimalBrainSurgeon{.damping = 1e-6, .work_limit = 0}(weight, mask, hessian);
  CHECK_FALSE(swept.exact);
  CHECK(swept.weight.masked_select(mask.logical_not()).abs().max().item<float>() == 0);
  CHECK(damage(swept.weight) < damage(weight * mask));
  CHECK(damage(swept.weight) >= damage(solved.weight) * 0.999);
  CHECK(raises("pare.numerics.123", [&] { (void)exact(weight, mask, torch::eye(3, torch::kDouble)); }));
}

TEST_CASE("rows that lose few weights, many, all or none are solved alike", "[sparsity]") {
  torch::manual_seed(0);
  constexpr std::int64_t kFeatures = 150;  // more than a block of the triangular solve
  const auto mixing = torch::randn({kFeatures, kFeatures}) + 20 * torch::eye(kFeatures);
  const auto x = torch::matmul(torch::randn({600, kFeatures}), mixing).to(torch::kDouble);
  const auto hessian = torch::matmul(x.t(), x) / 600;
  const auto weight = torch::randn({6, kFeatures});
  auto mask = torch::rand({6, kFeatures}).lt(torch::tensor({0.0, 0.05, 0.3, 0.6, 0.95, 2.0}).view({6, 1}));
  const auto solved = pare::OptimalBrainSurgeon{.damping = 0}(weight, mask, hessian);
  for (std::int64_t row = 0; row < 6; ++row) {
    INFO(row);
    const auto kept = mask[row].nonzero().flatten();
    const auto part = hessian.index_select(0, kept).index_select(1, kept);
    const auto inverse = torch::linalg_inv(part);
    const auto target = torch::matmul(hessian, weight[row].to(torch::kDouble)).index_select(0, kept);
    CHECK(torch::allclose(solved.weight[row].index_select(0, kept).to(torch::kDouble), torch::matmul(inverse, target),
                          1e-4, 1e-5));
    CHECK(torch::allclose(solved.inverse_diagonal[row].index_select(0, kept).to(torch::kDouble), inverse.diagonal(),
                          1e-4));
    CHECK(solved.weight[row].ne(0).sum().item<std::int64_t>() == kept.numel());
  }
}

TEST_CASE("weights follow inputs that are no longer what they were", "[sparsity]") {
  torch::manual_seed(0);
  const auto x = torch::randn({3000, 12});
  const auto changed = torch::matmul(x, torch::randn({12, 12})) + 0.05 * torch::randn({3000, 12});
  const auto weight = torch::randn({4, 12});
  const auto hessian = torch::matmul(changed.t(), changed).to(torch::kDouble);
  const auto cross = torch::matmul(changed.t(), x).to(torch::kDouble);
  const auto solved =
      pare::OptimalBrainSurgeon{.damping = 1e-6}(weight, torch::ones({4, 12}, torch::kBool), hessian, cross);
  const auto wanted = torch::matmul(x, weight.t());
  const auto error = torch::matmul(changed, solved.weight.t()) - wanted;
  CHECK((error.square().sum() / wanted.square().sum()).item<double>() < 0.1);
}

TEST_CASE("rounding leaves pruned weights at zero", "[sparsity]") {
  torch::manual_seed(0);
  const auto x = torch::randn({500, 16});
  const auto mask = torch::rand({8, 16}).gt(0.5);
  const auto weight = torch::randn({8, 16}) * mask;
  const auto hessian = torch::matmul(x.t(), x).to(torch::kDouble);
  const auto scale = weight.abs().amax(1, true) / 127;
  const auto rounded = pare::CompensatedRounding{}(weight, hessian, scale, torch::zeros({8, 1}, torch::kInt),
                                                   pare::IntegerGrid::signed_symmetric({8}));
  CHECK(rounded.masked_select(mask.logical_not()).abs().max().item<float>() == 0);
  CHECK((rounded - weight).abs().max().item<float>() < 3 * scale.max().item<float>());
}
