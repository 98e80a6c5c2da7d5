#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "pare/core/error.hpp"
#include "pare/numerics/entropy.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/numerics/histogram_mse.hpp"
#include "pare/numerics/percentile.hpp"

PARE_NAMESPACE_BEGIN

namespace {

void require_values(const Histogram& histogram) {
  if (histogram.empty()) fail("pare.numerics.103", "", "the observer has seen no values");
}

// The range seen, widened to contain 0.
Range with_zero(const Histogram& histogram) {
  const auto seen = histogram.extrema();
  return {std::min(seen.low, 0.0), std::max(seen.high, 0.0)};
}

double squared_error(const std::vector<Histogram::Bin>& bins, Range range, const IntegerGrid& grid) {
  const auto qparams = choose_qparams(range, grid);
  const double inverse = 1.0 / qparams.scale;
  const double low = qparams.low();
  const double high = qparams.high();
  double sum = 0.0;
  for (const auto& bin : bins) {
    const double rounded = std::clamp(std::nearbyint(bin.mean * inverse) * qparams.scale, low, high);
    const double error = bin.mean - rounded;
    sum += bin.count * error * error;
  }
  return sum;
}

/// Keeps the candidate with the least error; the wider one when they are equal.
class Best {
 public:
  Best(const std::vector<Histogram::Bin>& bins, const IntegerGrid& grid) : bins_(bins), grid_(grid) {}
  void consider(Range range) {
    const double error = squared_error(bins_, range, grid_);
    if (error < error_) {
      error_ = error;
      range_ = range;
    }
  }
  [[nodiscard]] Range range() const { return range_; }

 private:
  const std::vector<Histogram::Bin>& bins_;
  const IntegerGrid& grid_;
  double error_ = std::numeric_limits<double>::infinity();
  Range range_;
};

// Sum of p log(p / q) for saturating at `range`. What saturates is heaped on p's ends and missing in q: were q scaled
// up to 1, a range that nothing but a single bin lies in would seem to lose nothing.
double divergence(const std::vector<Histogram::Bin>& bins, Range range, const IntegerGrid& grid) {
  const auto qparams = choose_qparams(range, grid);
  const auto levels = static_cast<std::size_t>(grid.steps() + 1);
  std::vector<double> mass(levels), members(levels);
  std::vector<std::pair<std::size_t, double>> inside;  // level, p
  double below = 0.0, above = 0.0, total = 0.0;
  for (const auto& bin : bins) {
    total += bin.count;
    if (bin.mean < range.low) {
      below += bin.count;
    } else if (bin.mean > range.high) {
      above += bin.count;
    } else {
      const auto integer = static_cast<std::int64_t>(std::nearbyint(bin.mean / qparams.scale)) + qparams.zero_point;
      const auto level = static_cast<std::size_t>(std::clamp(integer, grid.min, grid.max) - grid.min);
      mass[level] += bin.count;
      members[level] += 1.0;
      inside.emplace_back(level, bin.count);
    }
  }
  if (inside.empty()) return std::numeric_limits<double>::infinity();
  inside.front().second += below;
  inside.back().second += above;
  double sum = 0.0;
  for (const auto& [level, count] : inside) sum += count / total * std::log(count / (mass[level] / members[level]));
  return sum;
}

}  // namespace

Range HistogramMSE::range(const IntegerGrid& grid) const {
  require_values(histogram_);
  const auto whole = with_zero(histogram_);
  const auto bins = histogram_.bins();
  if (bins.empty()) return whole;
  Best best(bins, grid);
  constexpr int kSteps = 64;
  for (int step = kSteps; step >= kSteps / 5; --step) {
    const double share = static_cast<double>(step) / kSteps;
    best.consider({whole.low * share, whole.high * share});
  }
  if (grid.symmetric || whole.low == 0.0 || whole.high == 0.0) return best.range();
  for (const bool low_end : {true, false, true, false}) {
    const auto centre = best.range();
    for (double factor = 0.6; factor <= 1.6; factor += 0.04) {
      auto range = centre;
      if (low_end) range.low = std::max(centre.low * factor, whole.low);
      if (!low_end) range.high = std::min(centre.high * factor, whole.high);
      best.consider(range);
    }
  }
  return best.range();
}

Percentile::Percentile(double percent) : percent_(percent) {
  if (!(percent > 50.0 && percent <= 100.0))
    fail("pare.numerics.104", "", "a percentile of {} is not in (50, 100]", percent);
}

Range Percentile::range(const IntegerGrid&) const {
  require_values(histogram_);
  const auto seen = histogram_.extrema();
  auto bins = histogram_.bins();
  if (histogram_.zeros() > 0) {
    const auto at = std::ranges::find_if(bins, [](const auto& bin) { return bin.mean > 0.0; });
    bins.insert(at, {0.0, static_cast<double>(histogram_.zeros())});
  }
  const double tail = static_cast<double>(histogram_.total()) * (1.0 - percent_ / 100.0);
  // The outer edge of the bin that the quantile lies in: no more saturates than was asked for.
  const auto edge = [&, width = histogram_.width()](const Histogram::Bin& bin, int side) {
    return bin.mean == 0.0 ? 0.0 : (std::floor(bin.mean / width) + side) * width;
  };
  const auto end_of = [&](auto first, auto last, int side) {
    double passed = 0.0;
    for (auto bin = first; bin != last; ++bin) {
      passed += bin->count;
      if (passed > tail) return std::clamp(edge(*bin, side), seen.low, seen.high);
    }
    return side == 0 ? seen.low : seen.high;
  };
  return {end_of(bins.begin(), bins.end(), 0), end_of(bins.rbegin(), bins.rend(), 1)};
}

Range Entropy::range(const IntegerGrid& grid) const {
  require_values(histogram_);
  const auto whole = with_zero(histogram_);
  const auto bins = histogram_.bins();
  auto best = whole;
  double least = std::numeric_limits<double>::infinity();
  constexpr int kSteps = 100;
  for (int step = kSteps; step >= kSteps / 10; --step) {
    const double share = static_cast<double>(step) / kSteps;
    const Range range{whole.low * share, whole.high * share};
    const double lost = divergence(bins, range, grid);
    if (lost < least) {
      least = lost;
      best = range;
    }
  }
  return best;
}

PARE_NAMESPACE_END
