#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "pare/core/error.hpp"
#include "pare/numerics/compensated_rounding.hpp"
#include "pare/numerics/coordinate_rounding.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/numerics/gram.hpp"
#include "pare/numerics/weight_observer.hpp"
#include "tests/support/catch.hpp"

namespace {

double output_error(const torch::Tensor& difference, const torch::Tensor& hessian) {
  const auto d = difference.to(torch::kDouble);
  return (d.matmul(hessian) * d).sum().item<double>();
}

// Correlated features, as natural data has them.
torch::Tensor samples(std::int64_t count, std::int64_t features) {
  return torch::randn({count, features}).matmul(torch::randn({features, features})) + torch::randn({features});
}

}  // namespace

TEST_CASE("fake quantization is within half a step inside the range and saturates outside", "[numerics]") {
  torch::manual_seed(0);
  for (const auto& grid : {pare::IntegerGrid::unsigned_affine(), pare::IntegerGrid::signed_symmetric(),
                           pare::IntegerGrid::signed_affine({4})}) {
    const auto values = torch::rand({10000}) * 3.0 - 1.0;
    const auto qparams = pare::choose_qparams({-1.0, 2.0}, grid);
    const auto quantized = pare::fake_quantize(values, qparams);
    const double slack = grid.symmetric ? 0.5 : 1.0;  // rounding the zero point shifts the ends by half a step
    CHECK((quantized - values).abs().max().item<double>() <= slack * qparams.scale * 1.0001);
    CHECK(pare::fake_quantize(torch::zeros({1}), qparams).item<float>() == 0.0F);
    CHECK(pare::fake_quantize(torch::full({1}, 1e6), qparams).item<double>() == Approx(qparams.high()));
    CHECK(torch::equal(pare::fake_quantize(quantized, qparams), quantized));
  }
  CHECK_THROWS_AS(pare::choose_qparams({0.0, INFINITY}, pare::IntegerGrid::unsigned_affine()), pare::Error);
}

TEST_CASE("weight observers: a scale for each row, constant rows included", "[numerics]") {
  torch::manual_seed(0);
  auto rows = torch::randn({16, 50});
  rows[3].zero_();
  rows[5].fill_(0.25);
  rows[7][0] = 12.0F;
  for (const auto& grid : {pare::IntegerGrid::signed_symmetric(), pare::IntegerGrid::unsigned_affine(),
                           pare::IntegerGrid::signed_symmetric({4})}) {
    const auto extreme = pare::WeightMinMax{}(rows, grid);
    const auto least = pare::WeightMSE{}(rows, grid);
    CHECK(extreme.scale.sizes() == torch::IntArrayRef{16});
    const auto by_extreme = (pare::fake_quantize(rows, extreme, grid) - rows).square().sum(1);
    const auto by_least = (pare::fake_quantize(rows, least, grid) - rows).square().sum(1);
    CHECK((by_least <= by_extreme + 1e-6).all().item<bool>());
    CHECK(by_least[3].item<float>() == 0.0F);
    CHECK(by_extreme[5].item<float>() < 1e-9F);
    if (grid.symmetric) {
      CHECK(extreme.zero_point.abs().max().item<int>() == 0);
    }
  }
  rows[0][0] = NAN;
  CHECK_THROWS_AS(pare::WeightMSE{}(rows, pare::IntegerGrid::signed_symmetric()), pare::Error);
}

TEST_CASE("moments add up over batches", "[numerics]") {
  torch::manual_seed(2);
  const auto all = torch::randn({3, 400, 7});
  pare::Gram streamed, other, joint;
  streamed.observe(all.narrow(1, 0, 150));
  other.observe(all.narrow(1, 150, 250));
  streamed.merge(other);
  joint.observe(all);
  CHECK(torch::allclose(streamed.second_moment(true), joint.second_moment(true), 1e-5, 1e-6));
  const auto centred = (all - all.mean(1, true)).to(torch::kDouble);
  CHECK(torch::allclose(joint.second_moment(true), torch::bmm(centred.transpose(1, 2), centred) / 400, 1e-4, 1e-5));
  CHECK_THROWS_AS(joint.observe(torch::randn({3, 10, 8})), pare::Error);
}

TEST_CASE("second moments of few and of many features, by whichever product", "[numerics]") {
  torch::manual_seed(8);
  for (const std::int64_t features : {1, 8, 9, 10, 25, 49, 64, 65, 255, 256, 300}) {
    for (const std::int64_t count : {1, 2, 130}) {
      INFO(features << " features of " << count << " samples");
      const auto values = torch::randn({2, count, features});
      pare::Gram gram;
      gram.observe(values);
      const auto exact = values.to(torch::kDouble);
      CHECK(torch::allclose(gram.second_moment(false), torch::bmm(exact.transpose(1, 2), exact) / count, 1e-5, 1e-5));
      CHECK(torch::allclose(gram.mean(), exact.mean(1), 1e-5, 1e-5));
    }
  }
}

TEST_CASE("compensated rounding lowers the error of the outputs and stays on the grid", "[numerics]") {
  torch::manual_seed(4);
  for (const int bits : {8, 4}) {
    for (const std::int64_t features : {9, 40, 200}) {
      const auto grid = pare::IntegerGrid::signed_symmetric({bits});
      const auto weight = torch::randn({24, features});
      pare::Gram gram;
      gram.observe(samples(4 * features, features).unsqueeze(0));
      const auto hessian = gram.second_moment(true)[0];
      const auto qparams = pare::WeightMSE{}(weight, grid);
      const auto nearest = pare::fake_quantize(weight, qparams, grid);
      for (const bool largest_first : {true, false}) {
        const auto rounded = pare::CompensatedRounding{.largest_first = largest_first, .block = 16}(
            weight, hessian, qparams.scale.unsqueeze(1), qparams.zero_point.unsqueeze(1), grid);
        CHECK(torch::allclose(pare::fake_quantize(rounded, qparams, grid), rounded, 0, 1e-6));
        CHECK(output_error(rounded - weight, hessian) < 0.8 * output_error(nearest - weight, hessian));
      }
    }
  }
}

TEST_CASE("compensated rounding with groups, dead features and a singular hessian", "[numerics]") {
  torch::manual_seed(5);
  const auto grid = pare::IntegerGrid::signed_symmetric({4});
  const auto weight = torch::randn({8, 32});
  const auto groups = weight.reshape({32, 8});
  const auto qparams = pare::WeightMSE{}(groups, grid);
  auto features = samples(20, 32);  // fewer samples than features
  features.slice(1, 4, 7).zero_();
  pare::Gram gram;
  gram.observe(features.unsqueeze(0));
  const auto rounded = pare::CompensatedRounding{}(weight, gram.second_moment(true)[0], qparams.scale.reshape({8, 4}),
                                                   qparams.zero_point.reshape({8, 4}), grid);
  CHECK(torch::isfinite(rounded).all().item<bool>());
  CHECK(
      torch::allclose(pare::fake_quantize(rounded.reshape({32, 8}), qparams, grid), rounded.reshape({32, 8}), 0, 1e-6));
  CHECK_THROWS_AS(pare::CompensatedRounding{}(weight, torch::eye(5, torch::kDouble), qparams.scale.reshape({8, 4}),
                                              qparams.zero_point.reshape({8, 4}), grid),
                  pare::Error);
}

TEST_CASE("coordinate rounding chooses scales and integers by the error of the outputs", "[numerics]") {
  torch::manual_seed(6);
  for (const int bits : {4, 2}) {
    for (const std::int64_t features : {9, 72}) {
      const auto grid = pare::IntegerGrid::signed_symmetric({bits});
      const auto weight = torch::randn({24, features});
      pare::Gram gram;
      gram.observe(samples(8 * features, features).unsqueeze(0));
      const auto hessian = gram.second_moment(true)[0];
      const auto qparams = pare::WeightMSE{}(weight, grid);
      const auto compensated = pare::CompensatedRounding{}(weight, hessian, qparams.scale.unsqueeze(1),
                                                           qparams.zero_point.unsqueeze(1), grid);
      const auto start = pare::CoordinateRounding{.turns = 0}(weight, hessian, grid);
      const auto result = pare::CoordinateRounding{}(weight, hessian, grid);
      const auto integers = result.rounded / result.scale.unsqueeze(1);
      CHECK(torch::allclose(integers, integers.round(), 0, 1e-4));
      CHECK(integers.abs().max().item<double>() <= static_cast<double>(grid.max) + 1e-3);
      CHECK((result.scale > 0).all().item<bool>());
      CHECK(output_error(result.rounded - weight, hessian) < 0.9 * output_error(compensated - weight, hessian));
      CHECK(output_error(result.rounded - weight, hessian) < output_error(start.rounded - weight, hessian));
    }
  }
}

TEST_CASE("coordinate rounding: the best integers of small rows are found", "[numerics]") {
  // Three features of 2 bits at a fixed scale: all 27 rows can be tried.
  torch::manual_seed(7);
  const auto grid = pare::IntegerGrid::signed_symmetric({2});
  int found = 0;
  for (int trial = 0; trial < 20; ++trial) {
    const auto mixed = samples(50, 3).to(torch::kDouble);
    const auto hessian = mixed.t().matmul(mixed) / 50;
    const auto weight = torch::randn({1, 3});
    const auto result = pare::CoordinateRounding{.damping = 0}(weight, hessian, grid);
    const double reached = output_error(result.rounded - weight, hessian);
    double least = 1e30;
    for (int code = 0; code < 27; ++code) {
      const auto row = torch::tensor({{code % 3 - 1.0F, code / 3 % 3 - 1.0F, code / 9 - 1.0F}});
      least = std::min(least, output_error(row * result.scale.unsqueeze(1) - weight, hessian));
    }
    CHECK(reached >= least - 1e-9);
    if (reached <= 1.0001 * least) ++found;
  }
  CHECK(found >= 15);
}

TEST_CASE("coordinate rounding: pruned weights, zero rows, singular hessians, bad input", "[numerics]") {
  torch::manual_seed(8);
  const auto grid = pare::IntegerGrid::signed_symmetric({4});
  auto weight = torch::randn({6, 32});
  weight[2].zero_();
  weight.slice(1, 3, 9).zero_();
  pare::Gram gram;
  gram.observe(samples(10, 32).unsqueeze(0));  // fewer samples than features
  const auto hessian = gram.second_moment(true)[0];
  const auto result = pare::CoordinateRounding{}(weight, hessian, grid);
  CHECK(torch::isfinite(result.rounded).all().item<bool>());
  CHECK(result.rounded.masked_select(weight.eq(0)).eq(0).all().item<bool>());
  CHECK((result.scale > 0).all().item<bool>());
  const auto dead = pare::CoordinateRounding{}(weight, torch::zeros({32, 32}, torch::kDouble), grid);
  CHECK(torch::isfinite(dead.rounded).all().item<bool>());
  CHECK_THROWS_AS(pare::CoordinateRounding{}(weight, torch::eye(5, torch::kDouble), grid), pare::Error);
  CHECK_THROWS_AS(pare::CoordinateRounding{}(weight, hessian, pare::IntegerGrid::unsigned_affine()), pare::Error);
  CHECK_THROWS_AS(pare::CoordinateRounding{.candidates = 0}(weight, hessian, grid), pare::Error);
  weight[0][0] = NAN;
  CHECK_THROWS_AS(pare::CoordinateRounding{}(weight, hessian, grid), pare::Error);
}
