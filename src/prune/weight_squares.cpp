#include "weight_squares.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "core/vector_width.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// Rows of floats, one behind the other.
struct FloatRows {
  const float* data;
  std::int64_t rows;
  std::int64_t entries;
};

}  // namespace

// Adds to each place in a row the squares that rows have there; four at a time, since the sums are what costs.
PARE_EACH_VECTOR_WIDTH static void add_by_place(const FloatRows& rows, double* sums) {
  std::int64_t r = 0;
  for (; r + 4 <= rows.rows; r += 4) {
    const auto *a = rows.data + r * rows.entries, *b = a + rows.entries, *c = b + rows.entries, *d = c + rows.entries;
    for (std::int64_t e = 0; e < rows.entries; ++e) {
      const double w = a[e], x = b[e], y = c[e], z = d[e];
      sums[e] += w * w + x * x + (y * y + z * z);
    }
  }
  for (; r < rows.rows; ++r) {
    const auto* row = rows.data + r * rows.entries;
    for (std::int64_t e = 0; e < rows.entries; ++e)
      sums[e] += static_cast<double>(row[e]) * static_cast<double>(row[e]);
  }
}

// Adds each row's squares to its own sum.
PARE_EACH_VECTOR_WIDTH static void add_by_row(const FloatRows& rows, double* sums) {
  constexpr std::int64_t kLanes = 16;  // compilers vectorise these without reordering a sum
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    const auto* row = rows.data + r * rows.entries;
    double lanes[kLanes] = {};
    std::int64_t e = 0;
    for (; e + kLanes <= rows.entries; e += kLanes)
      for (std::int64_t k = 0; k < kLanes; ++k)
        lanes[k] += static_cast<double>(row[e + k]) * static_cast<double>(row[e + k]);
    for (; e < rows.entries; ++e) lanes[0] += static_cast<double>(row[e]) * static_cast<double>(row[e]);
    for (const auto lane : lanes) sums[r] += lane;
  }
}

namespace {

// `[rows, columns, ...]`, dense floats: the sums of rows and of columns.
std::array<at::Tensor, 2> sums_of(const at::Tensor& weight) {
  const auto rows = weight.size(0), columns = weight.size(1), entries = weight.numel() / rows;
  auto of_rows = at::zeros({rows}, at::kDouble), of_columns = at::zeros({columns}, at::kDouble);
  std::vector<double> of_places(static_cast<std::size_t>(entries), 0.0);
  const auto* data = weight.const_data_ptr<float>();
  auto* row_sums = of_rows.mutable_data_ptr<double>();
  constexpr std::int64_t kCached = 1 << 12;  // floats that both sums find in the cache
  const auto together = std::max<std::int64_t>(4, kCached / entries);
  for (std::int64_t row = 0; row < rows; row += together) {
    const FloatRows some{data + row * entries, std::min(together, rows - row), entries};
    add_by_place(some, of_places.data());
    add_by_row(some, row_sums + row);
  }
  auto* column_sums = of_columns.mutable_data_ptr<double>();
  auto place = of_places.begin();
  for (std::int64_t c = 0; c < columns; ++c)
    for (std::int64_t k = 0; k < entries / columns; ++k) column_sums[c] += *place++;
  return {of_rows, of_columns};
}

bool is_dense(const at::Tensor& weight) {
  return weight.is_cpu() && weight.scalar_type() == at::kFloat && weight.is_contiguous();
}

}  // namespace

WeightSquares::WeightSquares(const Model& model) {
  if (at::get_num_threads() < 2) return;
  std::vector<std::pair<std::string, at::Tensor>> weights;
  for (const auto& [path, weight] : model.weights())
    if (weight.tensor.dim() >= 2 && weight.tensor.numel() > 0 && is_dense(weight.tensor))
      weights.emplace_back(path, weight.tensor.detach());
  ahead_ = std::async([weights = std::move(weights)] {
    const at::NoGradGuard no_grad;
    Sums sums;
    for (const auto& [path, weight] : weights) sums.emplace(path, sums_of(weight));
    return sums;
  });
}

at::Tensor WeightSquares::of_units(const at::Tensor& weight, const ChannelGroup::Slice& slice) {
  if (ahead_.valid()) known_ = ahead_.get();
  at::Tensor sums;
  if (slice.dim < 2 && weight.dim() >= 2 && weight.numel() > 0) {
    auto& known = known_[slice.path];
    if (!known[0].defined()) {
      const auto dense = weight.detach().to(at::kCPU).contiguous();
      const auto rows = dense.dim() == 2 ? dense.unsqueeze(2) : dense.flatten(2);
      known = rows.scalar_type() == at::kDouble ? std::array{rows.square().sum({1, 2}), rows.square().sum({0, 2})}
                                                : sums_of(rows.to(at::kFloat));
    }
    sums = known[static_cast<std::size_t>(slice.dim)];
  } else {
    sums = weight.detach().to(at::kCPU, at::kDouble).square();
    if (sums.dim() > 1) sums = sums.movedim(slice.dim, 0).flatten(1).sum(1);
  }
  if (slice.is_whole()) return sums;
  const auto units = static_cast<std::int64_t>(slice.indices.size()) / slice.entries;
  return sums.index_select(0, at::tensor(slice.indices, at::kLong)).view({units, -1}).sum(1);
}

PARE_NAMESPACE_END
