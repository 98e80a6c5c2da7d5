// Attention's softmax on a grid, against LibTorch's in float64.
#include "src/execute/onednn/softmax_kernel.hpp"

#include <torch/torch.h>

#include <limits>

#include "tests/support/catch.hpp"

namespace {

torch::Tensor integer_softmax(const torch::Tensor& x, float scale) {
  auto result = torch::full({x.numel() + 64}, 99, torch::kByte);
  pare::softmax_to_integers(x.const_data_ptr<float>(), result.mutable_data_ptr<std::uint8_t>(), x.size(0), x.size(1),
                            scale);
  CHECK(result.narrow(0, x.numel(), 64).eq(99).all().item<bool>());  // nothing behind the end
  return result.narrow(0, 0, x.numel()).view_as(x);
}

}  // namespace

TEST_CASE("softmax onto a grid, whatever the length of a row", "[execute]") {
  torch::manual_seed(0);
  for (const int64_t count : {1, 3, 15, 16, 17, 49, 128, 197, 1000, 4096})
    for (const double spread : {0.1, 3.0, 60.0}) {
      INFO(count << " of spread " << spread);
      const auto x = torch::randn({37, count}) * spread + 5.0;
      const auto expected = x.to(torch::kDouble).softmax(-1);
      const float scale = static_cast<float>(expected.max().item<double>() / 250);
      const auto grid = expected / static_cast<double>(scale);
      const auto actual = integer_softmax(x, scale).to(torch::kDouble);
      CHECK((actual - grid).abs().max().item<double>() < 0.502);
      // Rows that outgrow the grid end at its last step.
      const auto clipped = integer_softmax(x, scale / 2).to(torch::kDouble);
      CHECK((clipped - (grid * 2).clamp_max(255)).abs().max().item<double>() < 0.504);
    }
}

TEST_CASE("softmax onto a grid of masked rows", "[execute]") {
  const auto infinity = std::numeric_limits<float>::infinity();
  auto x = torch::zeros({4, 24});
  x[0].narrow(0, 5, 19).fill_(-infinity);
  x[1].narrow(0, 0, 20).fill_(-1e9);
  x[2].fill_(-infinity);
  x[3].fill_(3e4).narrow(0, 0, 1).fill_(3.01e4);
  const auto actual = integer_softmax(x, 1.0F / 255);
  CHECK(actual[0].narrow(0, 0, 5).eq(51).all().item<bool>());
  CHECK(actual[0].narrow(0, 5, 19).eq(0).all().item<bool>());
  CHECK(actual[1].narrow(0, 20, 4).eq(64).all().item<bool>());  // 63.75
  CHECK(actual[1].narrow(0, 0, 20).eq(0).all().item<bool>());
  CHECK(actual[2].eq(0).all().item<bool>());
  CHECK(actual[3][0].item<int>() == 255);
  CHECK(actual[3].narrow(0, 1, 23).eq(0).all().item<bool>());
}
