#include "pare/numerics/exact_scales.hpp"

#include <torch/torch.h>

#include <cmath>

#include "pare/numerics/fake_quantize.hpp"
#include "tests/support/catch.hpp"

TEST_CASE("exact scales of activations are powers of two, with even zero points", "[numerics]") {
  torch::manual_seed(2);
  for (const auto& grid : {pare::IntegerGrid::unsigned_affine(), pare::IntegerGrid::unsigned_affine({4}),
                           pare::IntegerGrid::signed_affine(), pare::IntegerGrid::signed_symmetric()})
    for (int i = 0; i < 200; ++i) {
      const auto ends = torch::randn({2}, torch::kDouble) * std::exp2(i % 40 - 20);
      const pare::Range range{ends.min().item<double>(), ends.max().item<double>()};
      const auto plain = pare::choose_qparams(range, grid), exact = pare::choose_exact_qparams(range, grid);
      INFO("[" << range.low << ", " << range.high << "] on [" << grid.min << ", " << grid.max << "]");
      int exponent = 0;
      CHECK(std::frexp(exact.scale, &exponent) == 0.5);
      CHECK(exact.scale >= plain.scale * 0.9);
      CHECK(exact.scale < plain.scale * 1.8);
      CHECK(exact.zero_point % 2 == 0);
      CHECK((exact.zero_point >= grid.min && exact.zero_point <= grid.max));
      if (grid.symmetric) CHECK(exact.zero_point == 0);
      // Neither end loses more than what may saturate and what an even zero point moves.
      const double slack = 0.11 * (std::max(range.high, 0.0) - std::min(range.low, 0.0)) + 2 * exact.scale;
      CHECK(exact.low() <= std::min(range.low, 0.0) + slack);
      CHECK(exact.high() >= std::max(range.high, 0.0) - slack);
    }
  CHECK(pare::choose_exact_qparams({0, 0}, pare::IntegerGrid::unsigned_affine()).scale == 1.0);
  CHECK_THROWS_WITH(pare::choose_exact_qparams({1, -1}, pare::IntegerGrid::unsigned_affine()),
                    Catch::Contains("pare.numerics.102"));
}

TEST_CASE("exact scales of weights have four bits and are a little larger", "[numerics]") {
  torch::manual_seed(3);
  const auto scales = torch::rand({1000}).add(1e-3) * torch::exp2(torch::randint(-20, 20, {1000}));
  const auto exact = pare::exact_scales(scales);
  CHECK(exact.scalar_type() == torch::kFloat);
  CHECK(exact.ge(scales).all().item<bool>());
  CHECK(exact.le(scales * 1.125).all().item<bool>());
  const auto bits = std::get<0>(torch::frexp(exact.to(torch::kDouble))) * 16;
  CHECK(torch::equal(bits, bits.round()));
  CHECK(torch::equal(pare::exact_scales(exact), exact));
}
