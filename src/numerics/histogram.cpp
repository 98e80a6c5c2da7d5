#include "pare/numerics/histogram.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "core/vector_width.hpp"
#include "pare/numerics/fake_quantize.hpp"

PARE_NAMESPACE_BEGIN

namespace {

std::int64_t bin_of(double value, int exponent) {
  return static_cast<std::int64_t>(std::floor(std::ldexp(value, -exponent)));
}

// The finest power of two with which `range` takes at most kBins + 1 bins.
int exponent_for(Range range) {
  const double extent = std::max(range.high - range.low, std::max(std::abs(range.low), std::abs(range.high)) * 0x1p-20);
  int exponent =
      std::max(static_cast<int>(std::floor(std::log2(extent / static_cast<double>(Histogram::kBins)))) - 1, -1000);
  while (bin_of(range.high, exponent) - bin_of(range.low, exponent) > Histogram::kBins) ++exponent;
  return exponent;
}

constexpr std::int64_t kWorthDividing = 1 << 16;
constexpr std::size_t kPieces = 8;   // however many threads there are: sums are the same ones
constexpr std::size_t kBlock = 512;  // numbers whose bins are found before they are counted

// The numbers that are not zero, of which rectifiers make many. @return how many
std::size_t drop_zeros(std::span<const float> values, float* kept) {
  std::size_t count = 0;
  for (const auto value : values) {
    kept[count] = value;
    count += static_cast<std::size_t>(value != 0.0F);
  }
  return count;
}

PARE_EACH_VECTOR_WIDTH void find_bins(const float* values, std::int32_t* bins, std::size_t count, double inverse,
                                      double first) {
  for (std::size_t i = 0; i < count; ++i)
    bins[i] = static_cast<std::int32_t>(std::floor(static_cast<double>(values[i]) * inverse) - first);
}

/// What one thread counts.
struct Piece {
  using Bin [[gnu::vector_size(2 * sizeof(double))]] = double;  // count and sum, added to as one
  std::vector<Bin> bins;
  std::int64_t zeros = 0;

  void count(std::span<const float> values, int exponent, std::int64_t first) {
    const double inverse = std::ldexp(1.0, -exponent);
    std::array<float, kBlock> kept;
    std::array<std::int32_t, kBlock> places;
    for (; !values.empty(); values = values.subspan(std::min(kBlock, values.size()))) {
      const auto block = values.first(std::min(kBlock, values.size()));
      const auto size = drop_zeros(block, kept.data());
      zeros += static_cast<std::int64_t>(block.size() - size);
      find_bins(kept.data(), places.data(), size, inverse, static_cast<double>(first));
      for (std::size_t i = 0; i < size; ++i)
        bins[static_cast<std::size_t>(places[i])] += Bin{1.0, static_cast<double>(kept[i])};
    }
  }
};

}  // namespace

double Histogram::width() const noexcept { return counts_.empty() ? 0.0 : std::ldexp(1.0, exponent_); }

void Histogram::coarsen(int exponent) {
  if (exponent <= exponent_) return;
  const int shift = exponent - exponent_;
  // Beyond 62 halvings every bin index is 0 or -1; an arithmetic shift of 62 says the same.
  const auto coarse = [&](std::int64_t bin) { return bin >> std::min(shift, 62); };
  const auto size = static_cast<std::int64_t>(counts_.size());
  const auto first = coarse(first_);
  const auto last = coarse(first_ + size - 1);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(last - first + 1));
  std::vector<double> sums(counts.size());
  for (std::int64_t i = 0; i < size; ++i) {
    const auto to = static_cast<std::size_t>(coarse(first_ + i) - first);
    counts[to] += counts_[static_cast<std::size_t>(i)];
    sums[to] += sums_[static_cast<std::size_t>(i)];
  }
  counts_ = std::move(counts);
  sums_ = std::move(sums);
  first_ = first;
  exponent_ = exponent;
}

void Histogram::cover(Range range) {
  if (total_ > 0) range = {std::min(range.low, extrema_.low), std::max(range.high, extrema_.high)};
  extrema_ = range;
  if (range.low == 0.0 && range.high == 0.0) return;
  if (counts_.empty()) {
    exponent_ = exponent_for(range);
    first_ = bin_of(range.low, exponent_);
  } else {
    coarsen(std::max(exponent_, exponent_for(range)));
  }
  const auto first = std::min(bin_of(range.low, exponent_), first_);
  const auto last = std::max(bin_of(range.high, exponent_), first_ + static_cast<std::int64_t>(counts_.size()) - 1);
  counts_.insert(counts_.begin(), static_cast<std::size_t>(first_ - first), 0);
  sums_.insert(sums_.begin(), static_cast<std::size_t>(first_ - first), 0.0);
  first_ = first;
  counts_.resize(static_cast<std::size_t>(last - first + 1));
  sums_.resize(counts_.size());
}

void Histogram::observe(const at::Tensor& values) {
  if (values.numel() == 0) return;
  if (values.is_complex()) fail("pare.numerics.101", "", "complex numbers have no range to quantize");
  // Bins for the numbers as they are counted: float32 may round one up to the next bin, or to infinity.
  const auto floats = values.detach().to(at::kCPU, at::kFloat).contiguous();
  cover(finite_extrema(floats));
  const auto* data = floats.data_ptr<float>();
  const auto count = floats.numel();
  total_ += count;
  if (counts_.empty()) {
    zeros_ += count;
    return;
  }
  std::vector<Piece> pieces(count < kWorthDividing ? 1 : kPieces);
  const auto length = (count + std::ssize(pieces) - 1) / std::ssize(pieces);
  at::parallel_for(0, std::ssize(pieces), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) {
      auto& piece = pieces[static_cast<std::size_t>(i)];
      piece.bins.resize(counts_.size());
      piece.count(
          {data + i * length, static_cast<std::size_t>(std::clamp<std::int64_t>(count - i * length, 0, length))},
          exponent_, first_);
    }
  });
  for (const auto& piece : pieces) {
    zeros_ += piece.zeros;
    for (std::size_t bin = 0; bin < counts_.size(); ++bin) {
      counts_[bin] += static_cast<std::int64_t>(piece.bins[bin][0]);
      sums_[bin] += piece.bins[bin][1];
    }
  }
}

void Histogram::merge(const Histogram& other) {
  if (other.empty()) return;
  cover(other.extrema_);
  total_ += other.total_;
  zeros_ += other.zeros_;
  if (other.counts_.empty()) return;
  Histogram coarse = other;
  coarse.coarsen(exponent_);
  for (std::size_t i = 0; i < coarse.counts_.size(); ++i) {
    const auto to = static_cast<std::size_t>(coarse.first_ - first_) + i;
    counts_[to] += coarse.counts_[i];
    sums_[to] += coarse.sums_[i];
  }
}

std::vector<Histogram::Bin> Histogram::bins() const {
  std::vector<Bin> result;
  for (std::size_t i = 0; i < counts_.size(); ++i)
    if (counts_[i] > 0) result.push_back({sums_[i] / static_cast<double>(counts_[i]), static_cast<double>(counts_[i])});
  return result;
}

PARE_NAMESPACE_END
