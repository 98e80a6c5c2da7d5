#include <torch/torch.h>

#include <cmath>

#include "pare/core/error.hpp"
#include "pare/core/literals.hpp"
#include "pare/numerics/entropy.hpp"
#include "pare/numerics/histogram_mse.hpp"
#include "pare/numerics/min_max.hpp"
#include "pare/numerics/moving_average.hpp"
#include "pare/numerics/observer.hpp"
#include "pare/numerics/percentile.hpp"
#include "pare/numerics/weight_observer.hpp"
#include "tests/support/catch.hpp"

namespace {

constexpr auto kUnsigned = pare::IntegerGrid::unsigned_affine();
constexpr auto kSigned = pare::IntegerGrid::signed_symmetric();

// Ranges that grow, change sign, and hold zeros only.
std::vector<torch::Tensor> batches() {
  torch::manual_seed(7);
  return {torch::zeros({5}),           torch::randn({100, 7}) * 1e-3,         torch::randn({4000}),
          torch::rand({64, 64}) * 100, torch::relu(torch::randn({3000}) * 5), -torch::rand({1000}) * 17 + 2};
}

template <class Observer>
Observer observed(const std::vector<torch::Tensor>& values) {
  Observer observer;
  for (const auto& value : values) observer.observe(value);
  return observer;
}

double mean_error(const torch::Tensor& values, pare::Range range, const pare::IntegerGrid& grid) {
  return (pare::fake_quantize(values, pare::choose_qparams(range, grid)) - values).square().mean().item<double>();
}

bool refused(std::string_view id, const std::function<void()>& act) {
  try {
    act();
  } catch (const pare::Error& error) {
    return error.id() == id;
  }
  return false;
}

}  // namespace

TEMPLATE_TEST_CASE("streaming equals one shot, and merging equals watching everything", "[numerics]", pare::MinMax,
                   pare::HistogramMSE, pare::Percentile, pare::Entropy) {
  static_assert(pare::ObserverType<TestType>);
  const auto all = batches();
  std::vector<torch::Tensor> flat;
  for (const auto& batch : all) flat.push_back(batch.flatten());
  const auto one_shot = observed<TestType>({torch::cat(flat)});
  const auto streamed = observed<TestType>(all);
  const auto backwards = observed<TestType>({all.rbegin(), all.rend()});
  for (std::size_t cut = 0; cut <= all.size(); ++cut) {
    auto merged = observed<TestType>({all.begin(), all.begin() + static_cast<std::ptrdiff_t>(cut)});
    merged.merge(observed<TestType>({all.begin() + static_cast<std::ptrdiff_t>(cut), all.end()}));
    for (const auto& grid : {kUnsigned, kSigned}) {
      CHECK(merged.range(grid).low == Approx(one_shot.range(grid).low));
      CHECK(merged.range(grid).high == Approx(one_shot.range(grid).high));
    }
  }
  for (const auto& grid : {kUnsigned, kSigned}) {
    CHECK(streamed.range(grid).low == Approx(one_shot.range(grid).low));
    CHECK(streamed.range(grid).high == Approx(one_shot.range(grid).high));
    CHECK(backwards.range(grid).high == Approx(one_shot.range(grid).high));
  }
}

TEMPLATE_TEST_CASE("observers refuse NaN, infinities and to speak before they saw anything", "[numerics]", pare::MinMax,
                   pare::MovingAverage, pare::HistogramMSE, pare::Percentile, pare::Entropy) {
  TestType observer;
  CHECK(observer.empty());
  CHECK(refused("pare.numerics.103", [&] { (void)observer.range(kUnsigned); }));
  CHECK(refused("pare.numerics.101", [&] { observer.observe(torch::tensor({1.0F, NAN})); }));
  CHECK(refused("pare.numerics.101", [&] { observer.observe(torch::tensor({1.0F, -INFINITY})); }));
  CHECK(observer.empty());
  observer.observe(torch::zeros({10}));
  CHECK(observer.range(kUnsigned) == pare::Range{0.0, 0.0});
  CHECK(pare::choose_qparams(observer.range(kSigned), kSigned).scale == 1.0);
  observer.observe(torch::full({10}, 3.0F));
  CHECK(observer.range(kUnsigned).high > 0.0);
  CHECK(observer.range(kUnsigned).high <= 3.0);
}

TEST_CASE("the histogram counts every value once, whatever the order", "[numerics]") {
  pare::Histogram forward, backward;
  const auto all = batches();
  std::int64_t total = 0;
  for (const auto& batch : all) {
    forward.observe(batch);
    total += batch.numel();
  }
  for (auto it = all.rbegin(); it != all.rend(); ++it) backward.observe(*it);
  CHECK(forward.total() == total);
  double counted = static_cast<double>(forward.zeros());
  for (const auto& bin : forward.bins()) counted += bin.count;
  CHECK(counted == static_cast<double>(total));
  const auto a = forward.bins(), b = backward.bins();
  REQUIRE(a.size() == b.size());
  CHECK(a.size() <= static_cast<std::size_t>(pare::Histogram::kBins + 1));
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].count == b[i].count);
    CHECK(a[i].mean == Approx(b[i].mean));
  }
}

TEST_CASE("the histogram counts numbers as float32 holds them", "[numerics]") {
  pare::Histogram doubles, integers;
  doubles.observe(torch::tensor({0.1, 1.0 - 1e-12}, torch::kDouble));
  CHECK(doubles.extrema().high == 1.0);
  CHECK(doubles.bins().back().mean == 1.0);
  integers.observe(torch::tensor({std::int64_t{-3}, (std::int64_t{1} << 40) - 1}));
  CHECK(integers.extrema().high == std::ldexp(1.0, 40));
  CHECK(integers.bins().back().count == 1.0);
  CHECK(refused("pare.numerics.101", [&] { doubles.observe(torch::tensor({0.0, 1e300}, torch::kDouble)); }));
  CHECK(doubles.total() == 2);
}

TEST_CASE("the MSE range beats the whole range on outliers and keeps integers exact", "[numerics]") {
  torch::manual_seed(1);
  auto values = torch::randn({20000});
  values[3] = 200.0F;
  for (const auto& grid : {kUnsigned, kSigned}) {
    const auto mse = observed<pare::HistogramMSE>({values});
    CHECK(mean_error(values, mse.range(grid), grid) < mean_error(values, {-200.0, 200.0}, grid));
    const auto seen = observed<pare::MinMax>({values}).range(grid);
    CHECK(mean_error(values, mse.range(grid), grid) < mean_error(values, seen, grid));
  }
  const auto pixels = torch::randint(0, 256, {30000}).to(torch::kFloat);
  const auto exact = observed<pare::HistogramMSE>({torch::cat({pixels, torch::tensor({0.0F, 255.0F})})});
  CHECK(mean_error(pixels, exact.range(kUnsigned), kUnsigned) == 0.0);
}

TEST_CASE("percentiles cut the tails they are told to", "[numerics]") {
  const auto ramp = torch::arange(-1000, 1001).to(torch::kFloat);
  pare::Percentile p99(99.0), all(100.0);
  p99.observe(ramp);
  all.observe(ramp);
  CHECK(p99.range(kUnsigned).high == Approx(980).margin(2));
  CHECK(p99.range(kUnsigned).low == Approx(-980).margin(2));
  CHECK(all.range(kUnsigned) == pare::Range{-1000.0, 1000.0});
  CHECK(refused("pare.numerics.104", [] { (void)pare::Percentile(120.0); }));
  CHECK(refused("pare.numerics.104", [] { (void)pare::MovingAverage(0.0); }));
}

TEST_CASE("entropy keeps the bulk of a heavy tail", "[numerics]") {
  torch::manual_seed(3);
  auto values = torch::randn({50000}).abs();
  values[0] = 100.0F;
  const auto range = observed<pare::Entropy>({values}).range(kUnsigned);
  CHECK(range.high < 60.0);
  CHECK(range.high > 2.0);
}

TEST_CASE("a moving average follows the batches", "[numerics]") {
  pare::MovingAverage average(0.5);
  average.observe(torch::tensor({-1.0F, 1.0F}));
  average.observe(torch::tensor({-3.0F, 5.0F}));
  CHECK(average.range(kUnsigned) == pare::Range{-2.0, 3.0});
  pare::MovingAverage other(0.5);
  other.observe(torch::tensor({-8.0F, 9.0F}));
  average.merge(other);
  CHECK(average.range(kUnsigned).high == Approx(5.0));
}

TEST_CASE("quantities read as they are written", "[core]") {
  using namespace pare::literals;
  static_assert((8_bits).count == 8 && (30_pct).fraction == 0.3 && (2_MiB).count == 2097152);
  static_assert(pare::IntegerGrid::signed_symmetric(4_bits).min == -7);
  CHECK((12.5_pct).fraction == 0.125);
}

TEST_CASE("quantiles saturate no more than was asked for, whatever the bins", "[numerics]") {
  torch::manual_seed(11);
  const auto values = torch::randn({100000});
  for (const double outlier : {1e2, 1e4}) {
    pare::Percentile percentile{99.9};
    percentile.observe(torch::cat({values, torch::full({1}, outlier)}));
    const auto range = percentile.range(kUnsigned);
    CHECK(values.lt(range.low).sum().item<int64_t>() <= 101);
    CHECK(values.gt(range.high).sum().item<int64_t>() <= 101);
    CHECK(range.high < outlier / 2);
  }
}

TEST_CASE("entropy keeps what lies away from zero", "[numerics]") {
  torch::manual_seed(12);
  for (const double centre : {5.0, 6.0, 8.0, 10.0}) {
    const auto values = torch::randn({200000}) + centre;
    const auto range = observed<pare::Entropy>({values}).range(kUnsigned);
    CHECK(range.high > centre + 2);
    CHECK(mean_error(values, range, kUnsigned) < 0.01);
  }
}

TEST_CASE("numbers and options that observers cannot take", "[numerics]") {
  const auto complex = torch::ones({4}, torch::kComplexFloat);
  CHECK(refused("pare.numerics.101", [&] { pare::MinMax{}.observe(complex); }));
  CHECK(refused("pare.numerics.101", [&] { pare::HistogramMSE{}.observe(complex); }));
  CHECK(refused("pare.numerics.102", [&] { (void)pare::choose_qparams({0, 1e300}, kUnsigned); }));
  const auto rows = torch::randn({2, 8});
  CHECK(refused("pare.numerics.104", [&] { (void)pare::WeightMSE{.candidates = 0}(rows, kSigned); }));
  for (const double smallest : {0.0, -1.0, 1.5})
    CHECK(refused("pare.numerics.104", [&] { (void)pare::WeightMSE{.smallest = smallest}(rows, kSigned); }));
}
