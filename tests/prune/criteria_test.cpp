// The criteria of `Pruner` on numbers small enough that their papers' formulas give the order by hand.
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/activation.hpp"
#include "pare/prune/batch_norm_scale.hpp"
#include "pare/prune/fisher.hpp"
#include "pare/prune/geometric_median.hpp"
#include "pare/prune/l1.hpp"
#include "pare/prune/l2.hpp"
#include "pare/prune/lamp.hpp"
#include "pare/prune/least_squares.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/prune/random.hpp"
#include "pare/prune/taylor.hpp"
#include "pare/prune/wanda.hpp"
#include "tests/support/catch.hpp"

namespace {

using UnitOrder = std::vector<std::int64_t>;

torch::nn::Linear layer_of(const torch::Tensor& weight) {
  const torch::NoGradGuard no_grad;
  torch::nn::Linear layer(torch::nn::LinearOptions(weight.size(1), weight.size(0)).bias(false));
  layer->weight.copy_(weight);
  return layer;
}

// Four hidden units: unit i is computed by row i of `rows` and read with the factor readers[i].
pare::Model four_units(const torch::Tensor& rows, const torch::Tensor& readers, bool rectified = false,
                       const torch::Tensor& scales = {}) {
  torch::manual_seed(0);
  torch::nn::Sequential net;
  net->push_back("in", layer_of(rows));
  if (scales.defined()) {
    const torch::NoGradGuard no_grad;
    torch::nn::BatchNorm1d norm(rows.size(0));
    norm->weight.copy_(scales);
    net->push_back("norm", norm);
  }
  if (rectified) net->push_back("act", torch::nn::ReLU());
  net->push_back("out", layer_of(readers.unsqueeze(0)));
  net->eval();
  return pare::capture(net, torch::randn({2, rows.size(1)}));
}

// The units in the order in which they go; the one that always stays comes last.
template <class Importance>
UnitOrder order_of(const Importance& importance, const pare::Model& model, const pare::Batches& calibration = {},
                   const pare::Aggregation& aggregation = {}) {
  UnitOrder order, left{0, 1, 2, 3};
  for (const double share : {0.25, 0.5, 0.75}) {
    const pare::Pruner<Importance> pruner{
        .importance = importance,
        .ratio = pare::Ratio{share},
        .scope = pare::Scope::PerGroup,
        .aggregation = aggregation,
        .loss = [](const std::vector<torch::Tensor>& outputs, const pare::Batch&) { return outputs[0].sum(); },
        .reconstruct = false,
        .recalibrate = false};
    const auto pruned = pare::apply(pruner, model, {.calibration = calibration}).model;
    const auto& stay = pruned.weights().narrowings("in.weight").at(0).kept;
    const auto gone = [&](std::int64_t unit) { return std::ranges::find(stay, unit) == stay.end(); };
    std::ranges::copy_if(left, std::back_inserter(order), gone);
    std::erase_if(left, gone);
  }
  order.insert(order.end(), left.begin(), left.end());
  return order;
}

}  // namespace

TEST_CASE("L1 adds magnitudes and L2 squares, over all that goes with a unit", "[criteria]") {
  const auto model = four_units(torch::tensor({{3.0F, 0.0F}, {2.0F, 2.0F}, {1.0F, 1.0F}, {-4.0F, 1.0F}}),
                                torch::tensor({0.1F, -0.1F, 0.5F, 1.0F}));
  CHECK(order_of(pare::L1{}, model) == UnitOrder{2, 0, 1, 3});  // 3.1, 4.1, 2.5, 6
  CHECK(order_of(pare::L2{}, model) == UnitOrder{2, 1, 0, 3});  // 9.01, 8.01, 2.25, 18
}

TEST_CASE("scores of a group's slices are added, or become one as the user says", "[criteria]") {
  const auto model = four_units(torch::tensor({{3.0F, 0.0F}, {2.0F, 0.0F}, {1.0F, 0.0F}, {0.5F, 0.0F}}),
                                torch::tensor({1.0F, 2.5F, 3.5F, 2.0F}));
  CHECK(order_of(pare::L2{}, model) == UnitOrder{3, 0, 1, 2});  // 10, 10.25, 13.25, 4.25
  std::vector<std::int64_t> sizes;
  const auto largest = [&](const torch::Tensor& scores) {
    sizes = scores.sizes().vec();
    return scores.amax(0);
  };
  CHECK(order_of(pare::L2{}, model, {}, largest) == UnitOrder{3, 1, 0, 2});  // 9, 6.25, 12.25, 4
  CHECK(sizes == std::vector<std::int64_t>{2, 4});
}

TEST_CASE("LAMP divides each square by the sum of those not smaller", "[criteria]") {
  const auto scores = pare::Lamp{}.normalize(torch::tensor({2.0, 8.0, 1.0, 4.0}));
  CHECK(torch::allclose(scores, torch::tensor({2.0 / 14, 1.0, 1.0 / 15, 4.0 / 12})));

  // Two groups: squares of 1, 2, 4, 8, which LAMP makes 0.07, 0.14, 0.33, 1, and of 90 to 120: 0.21, 0.30, 0.48, 1.
  torch::nn::Sequential net;
  net->push_back("first", layer_of(torch::tensor({{1.0F}, {2.0F}, {4.0F}, {8.0F}}).sqrt()));
  net->push_back("second", layer_of(torch::full({4, 4}, 1e-3)));
  net->push_back("third", layer_of(torch::tensor({{90.0F, 100.0F, 110.0F, 120.0F}}).sqrt()));
  net->eval();
  const auto model = pare::capture(net, torch::randn({2, 1}));
  const auto left = [&](const auto& importance) {
    const auto pruned = pare::apply(
                            pare::Pruner<std::remove_cvref_t<decltype(importance)>>{
                                .importance = importance, .ratio = pare::Ratio{0.625}, .scope = pare::Scope::Global},
                            model)
                            .model;
    return std::pair(pruned.weights().narrowings("first.weight").at(0).kept,
                     pruned.weights().narrowings("third.weight").at(0).kept);
  };
  CHECK(left(pare::Lamp{}) == std::pair(UnitOrder{3}, UnitOrder{2, 3}));
  // Divided by the group's mean: 0.27, 0.53, 1.07, 2.13 and 0.86, 0.95, 1.05, 1.14.
  CHECK(left(pare::L2{}) == std::pair(UnitOrder{2, 3}, UnitOrder{3}));
}

TEST_CASE("a batch norm's scale ranks by its magnitude, and without one squares do", "[criteria]") {
  const auto rows = torch::tensor({{0.1F, 0.0F}, {5.0F, 0.0F}, {3.0F, 0.0F}, {1.0F, 0.0F}});
  const auto normed = four_units(rows, torch::ones({4}), true, torch::tensor({-0.9F, 0.1F, 0.5F, -0.3F}));
  CHECK(order_of(pare::BatchNormScale{}, normed) == UnitOrder{1, 3, 2, 0});
  const auto plain = four_units(rows, torch::ones({4}));
  CHECK(order_of(pare::BatchNormScale{}, plain) == UnitOrder{0, 3, 2, 1});
  CHECK(order_of(pare::L2{}, plain) == UnitOrder{0, 3, 2, 1});
}

TEST_CASE("the unit nearest to the others goes before the smallest", "[criteria]") {
  // Distances 3, 5, 25 from the first, 3, 4, 23.3 from the second, 5, 4, 20 from the third.
  const auto model = four_units(torch::tensor({{0.0F, 0.0F}, {3.0F, 0.0F}, {3.0F, 4.0F}, {15.0F, 20.0F}}),
                                torch::tensor({1.0F, 9.0F, 1.0F, 1.0F}));
  CHECK(order_of(pare::GeometricMedian{}, model) == UnitOrder{2, 1, 0, 3});
}

TEST_CASE("Taylor takes the magnitude of a sum, Fisher the sum of squares", "[criteria]") {
  const auto rows = torch::tensor({{1.0F, 0.0F}, {2.0F, -1.0F}, {0.5F, 0.0F}, {1.0F, 1.0F}});
  const auto model = four_units(rows, torch::tensor({2.0F, 3.0F, 1.0F, 0.1F}));
  const pare::Batches calibration{torch::tensor({{1.0F, 2.0F}})};
  // With the sum of the outputs as the loss dL/dA = b x and dL/db = A x, which is 1, 0, 0.5 and 3. Taylor has twice
  // |b A x|: 4, 0, 1, 0.6. What the second unit adds it takes away again.
  CHECK(order_of(pare::Taylor{}, model, calibration) == UnitOrder{1, 3, 2, 0});
  // A^2 b^2 x^2 + b^2 (A x)^2: 4 + 4, 72 + 0, 0.25 + 0.25, 0.05 + 0.09.
  CHECK(order_of(pare::Fisher{}, model, calibration) == UnitOrder{3, 2, 0, 1});
  CHECK(order_of(pare::L2{}, model) == UnitOrder{2, 3, 0, 1});
}

TEST_CASE("gradients are averaged over the batches, their squares apart from them", "[criteria]") {
  // The first entry's gradient is +1 and -1, the second's 1 and 1: what the first reads cancels out for Taylor alone.
  const auto rows = torch::tensor({{9.0F, 0.0F}, {0.0F, 3.0F}, {0.0F, 2.0F}, {0.0F, 1.0F}});
  const auto model = four_units(rows, torch::ones({4}));
  const pare::Batches calibration{torch::tensor({{1.0F, 1.0F}}), torch::tensor({{-1.0F, 1.0F}})};
  CHECK(order_of(pare::Taylor{}, model, calibration) == UnitOrder{0, 3, 2, 1});
  CHECK(order_of(pare::Fisher{}, model, calibration) == UnitOrder{3, 2, 1, 0});
}

TEST_CASE("Wanda weighs by the root mean square of what is read, Activation by what is read alone", "[criteria]") {
  const auto rows = torch::tensor({{3.0F, 4.0F}, {1.0F, 1.0F}, {0.6F, 0.8F}, {6.0F, 8.0F}});
  const auto model = four_units(rows, torch::tensor({0.2F, -0.5F, 2.0F, 0.05F}));
  const pare::Batches calibration{torch::eye(2)};                                    // the units are their rows
  CHECK(order_of(pare::Wanda{}, model, calibration) == UnitOrder{3, 1, 0, 2});       // 0.71, 0.5, 1.41, 0.35
  CHECK(order_of(pare::Activation{}, model, calibration) == UnitOrder{2, 1, 0, 3});  // 3.5, 1, 0.7, 7
  CHECK(order_of(pare::L2{}, model) == UnitOrder{1, 2, 0, 3});                       // 25.04, 2.25, 5, 100
}

TEST_CASE("the share of values that are not zero is not their size", "[criteria]") {
  const auto rows = torch::tensor(
      {{5.0F, -1.0F, -1.0F, -1.0F}, {0.1F, 0.1F, 0.1F, -9.0F}, {1.0F, 1.0F, 1.0F, 1.0F}, {3.0F, 3.0F, -1.0F, -1.0F}});
  const auto model = four_units(rows, torch::ones({4}), true);
  const pare::Batches calibration{torch::eye(4)};
  using Measure = pare::Activation::Measure;
  // Quarters that pass the rectifier: 1, 3, 4, 2; their means 1.25, 0.075, 1, 1.5.
  CHECK(order_of(pare::Activation{.measure = Measure::NonZero}, model, calibration) == UnitOrder{0, 3, 1, 2});
  CHECK(order_of(pare::Activation{.measure = Measure::Mean}, model, calibration) == UnitOrder{1, 2, 0, 3});
}

TEST_CASE("least squares lets go what the others can make up for, and one of a pair only", "[criteria]") {
  // Three inputs that have nothing to do with each other; the first two units are the same one twice.
  const auto x = torch::tensor({{1.0F, 1.0F, 1.0F},
                                {1.0F, 1.0F, -1.0F},
                                {1.0F, -1.0F, 1.0F},
                                {1.0F, -1.0F, -1.0F},
                                {-1.0F, 1.0F, 1.0F},
                                {-1.0F, 1.0F, -1.0F},
                                {-1.0F, -1.0F, 1.0F},
                                {-1.0F, -1.0F, -1.0F}});
  const auto rows = torch::tensor({{1.0F, 0.0F, 0.0F}, {1.0F, 0.0F, 0.0F}, {0.0F, 1.0F, 0.0F}, {0.0F, 0.0F, 1.0F}});
  const auto model = four_units(rows, torch::tensor({2.0F, 1.9F, 0.5F, 3.0F}));
  // w^2 / (H^-1)_bb with H damped by a hundredth: 0.080, 0.072, 0.25, 9.1. Then the first has the work of both: 15.
  CHECK(order_of(pare::LeastSquares{}, model, pare::Batches{x}) == UnitOrder{1, 2, 3, 0});
  // Without calibration it is L2: 5, 4.61, 1.25, 10.
  CHECK(order_of(pare::LeastSquares{}, model) == UnitOrder{2, 1, 0, 3});
  CHECK(order_of(pare::L2{}, model) == UnitOrder{2, 1, 0, 3});
}

TEST_CASE("chance is the same for the same seed, and comes to every unit", "[criteria]") {
  const pare::ChannelGroup::Slice slice{.path = "in.weight", .count = 4, .produces = true, .indices = {0, 1, 2, 3}};
  const pare::SliceView view{slice, torch::ones({4, 2})};
  std::set<std::int64_t> first;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const auto scores = pare::Random{seed}(view);
    REQUIRE(scores.sizes().vec() == std::vector<std::int64_t>{4});
    CHECK(torch::equal(scores, pare::Random{seed}(view)));
    first.insert(scores.argmin().item<std::int64_t>());
  }
  CHECK(first.size() == 4);
}
