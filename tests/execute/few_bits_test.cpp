// Weights of 2 and 4 bits: how they are stored, and that kernels compute what the simulation says.
#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "src/execute/packed_integers.hpp"
#include "tests/execute/packed_steps.hpp"

namespace {

namespace nn = torch::nn;

struct Wide : nn::Module {
  Wide() {
    first = register_module("first", nn::Conv2d(nn::Conv2dOptions(3, 32, 3).padding(1)));
    depthwise = register_module("depthwise", nn::Conv2d(nn::Conv2dOptions(32, 32, 3).padding(1).groups(32)));
    second = register_module("second", nn::Conv2d(nn::Conv2dOptions(32, 32, 3).padding(1)));
    fc = register_module("fc", nn::Linear(32, 40));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(first(x));
    y = torch::relu(second(torch::relu(depthwise(y))) + y);
    return fc(y.mean({2, 3}));
  }
  nn::Conv2d first{nullptr}, depthwise{nullptr}, second{nullptr};
  nn::Linear fc{nullptr};
};

}  // namespace

TEST_CASE("integers are packed into the fewest bits that hold them", "[execute]") {
  torch::manual_seed(0);
  struct Case {
    int low, high, bits;
  };
  for (const auto& one : {Case{-2, 1, 2}, Case{-1, 1, 2}, Case{-8, 7, 4}, Case{-7, 7, 4}, Case{-8, 8, 8},
                          Case{-9, 1, 8}, Case{-128, 127, 8}}) {
    for (const std::int64_t count : {1, 2, 3, 7, 64, 1001}) {
      auto integers = torch::randint(one.low, one.high + 1, {count, 3}, torch::kChar);
      integers[0][0] = one.low;
      integers[count - 1][2] = one.high;
      const pare::PackedIntegers packed(integers);
      CHECK(packed.bits() == one.bits);
      CHECK(packed.nbytes() == static_cast<std::size_t>((3 * count * one.bits + 7) / 8));
      CHECK(torch::equal(packed.unpack(), integers));
    }
  }
  CHECK(torch::equal(pare::PackedIntegers(torch::empty({0, 4}, torch::kChar)).unpack(),
                     torch::empty({0, 4}, torch::kChar)));
  CHECK_FALSE(pare::PackedIntegers().defined());
}

TEST_CASE("weights of few bits are stored so, and computed with as simulated", "[execute]") {
  torch::manual_seed(1);
  const torch::NoGradGuard no_grad;
  Wide net;
  const auto model = pare::capture(net, torch::randn({2, 3, 12, 12}));
  const pare::Batches calibration{torch::randn({8, 3, 12, 12}), torch::randn({8, 3, 12, 12})};
  const auto x = torch::randn({3, 3, 12, 12});
  std::size_t last = 0;
  for (const int bits : {2, 4, 8}) {
    const auto simulated = pare::apply(pare::Quantizer{.weights = {bits}, .rounding = pare::Rounding::Learned}, model,
                                       {.calibration = calibration})
                               .model;
    const auto packed = pare::compile(simulated);
    CHECK(check_packed_steps(simulated, packed, {x}) > 0);
    CHECK(pare::sqnr_db(simulated(x), packed(x)) > 30.0);
    const auto weights = packed.weight_bytes();
    if (bits < 8) CHECK(packed.resident_bytes() > weights);
    if (last > 0) CHECK(static_cast<double>(weights) > 1.5 * static_cast<double>(last));
    last = weights;
  }
}
