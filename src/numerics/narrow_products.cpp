#include "narrow_products.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/vector_width.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::int64_t kLanes = 8, kTogether = 9;
using Floats [[gnu::vector_size(4 * kLanes)]] = float;

// The products of features [first, first + kTogether) with [other, other + kLanes): a register for each of the first.
// Where few features are left behind `other`, its vectors reach into the next row, and those products are not kept.
// @param last the last row, with kLanes numbers behind it
PARE_EACH_VECTOR_WIDTH void write_block(const float* rows, std::int64_t samples, std::int64_t features,
                                        const float* last, std::int64_t first, std::int64_t other, float* products) {
  Floats sums[kTogether] = {};
  for (std::int64_t s = 0; s < samples; ++s) {
    const auto* row = s + 1 < samples ? rows + s * features : last;
    Floats others;
    std::memcpy(&others, row + other, sizeof others);
#pragma GCC unroll 9
    for (std::int64_t i = 0; i < kTogether; ++i) sums[i] += row[first + i] * others;
  }
  const auto kept = static_cast<std::size_t>(std::min(kLanes, features - other)) * sizeof(float);
  for (std::int64_t i = 0; i < kTogether; ++i) std::memcpy(products + (first + i) * features + other, &sums[i], kept);
}

}  // namespace

void narrow_products(const float* rows, std::int64_t samples, std::int64_t features, float* products) {
  std::array<float, kMostNarrowFeatures + kLanes> last{};
  std::copy_n(rows + (samples - 1) * features, features, last.begin());
  for (std::int64_t block = 0; block < features; block += kTogether) {
    const auto first = std::min(block, features - kTogether);
    for (auto other = first; other < features; other += kLanes)
      write_block(rows, samples, features, last.data(), first, other, products);
  }
  for (std::int64_t row = 1; row < features; ++row)
    for (std::int64_t column = 0; column < row; ++column)
      products[row * features + column] = products[column * features + row];
}

PARE_NAMESPACE_END
