#include "elimination.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

PARE_NAMESPACE_BEGIN

at::Tensor damped_inverse(const at::Tensor& covariance, double damping) {
  auto damped = covariance.clone();
  const auto mean = std::max(damped.diagonal().mean().item<double>(), 1e-20);  // inputs that are all zero
  damped.diagonal().add_((damping + 1e-9) * mean);
  const auto [factor, info] = at::linalg_cholesky_ex(damped);
  if (info.item<int>() == 0) return at::cholesky_inverse(factor).to(at::kFloat);
  // Inputs that hardly vary about a large mean: what is left of their covariance is rounding, some of it negative.
  const auto [values, vectors] = at::linalg_eigh(damped);
  const auto floored = values.clamp_min(std::max(values.max().item<double>() * 1e-9, (damping + 1e-9) * mean));
  return (vectors / floored).matmul(vectors.t()).to(at::kFloat);
}

namespace {

// Downdates in single precision may leave a block singular that was not: those lean on their diagonal.
at::Tensor solved(const at::Tensor& block, const at::Tensor& right) {
  const auto [solution, info] = at::linalg_solve_ex(block, right);
  if (!info.any().item<bool>() && solution.isfinite().all().item<bool>()) return solution;
  auto damped = block.clone();
  auto diagonal = damped.diagonal(0, -2, -1);
  diagonal.add_(diagonal.abs().mean(-1, /*keepdim=*/true).mul(1e-3).clamp_min(1e-12));
  return at::linalg_solve(damped, right);
}

}  // namespace

Elimination::Elimination(const at::Tensor& weight, const at::Tensor& inverse, std::int64_t units)
    : units_(units),
      width_(weight.size(1) / units),
      scale_(std::max(inverse.diagonal().mean().item<double>(), 1e-30)),
      weight_(weight.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true)),
      inverse_(inverse / scale_),
      present_(static_cast<std::size_t>(units)),
      gone_(static_cast<std::size_t>(units), false) {
  std::iota(present_.begin(), present_.end(), 0);
}

at::Tensor Elimination::costs() const {
  const auto present = static_cast<std::int64_t>(present_.size());
  const auto columns = weight_.view({-1, present, width_});
  at::Tensor costs;
  if (width_ == 1) {
    costs = columns.square().sum({0, 2}) / inverse_.diagonal().clamp_min(1e-30);
  } else {
    auto inner = inverse_.view({present, width_, present, width_}).diagonal(0, 0, 2).permute({2, 0, 1}).clone();
    for (std::size_t i = 0; i < gone_.size(); ++i)
      if (gone_[i]) inner[static_cast<std::int64_t>(i)].copy_(at::eye(width_, at::kFloat));
    const auto squares = columns.permute({1, 2, 0}).matmul(columns.permute({1, 0, 2}));  // W_b^T W_b of each unit
    costs = solved(inner, squares).diagonal(0, 1, 2).sum(1);
  }
  auto all = at::full({units_}, std::numeric_limits<double>::infinity(), at::kDouble);
  const auto values = (costs.to(at::kDouble) / scale_).clamp_min(0.0).contiguous();
  for (std::size_t i = 0; i < present_.size(); ++i)
    if (!gone_[i])
      all.mutable_data_ptr<double>()[present_[i]] = values.const_data_ptr<double>()[static_cast<std::int64_t>(i)];
  return all;
}

void Elimination::remove(const std::vector<std::int64_t>& units) {
  std::vector<std::int64_t> positions;
  for (const auto unit : units) {
    const auto place = std::ranges::lower_bound(present_, unit) - present_.begin();
    gone_[static_cast<std::size_t>(place)] = true;
    for (std::int64_t k = 0; k < width_; ++k) positions.push_back(place * width_ + k);
  }
  gone_count_ += static_cast<std::int64_t>(units.size());
  const auto features = at::tensor(positions, at::kLong);
  const auto rows = inverse_.index_select(0, features);              // [J, F]
  const auto shares = solved(rows.index_select(1, features), rows);  // [J, F]
  weight_.addmm_(weight_.index_select(1, features), shares, 1, -1);
  inverse_.addmm_(rows.t(), shares, 1, -1);
  weight_.index_fill_(1, features, 0);
  inverse_.index_fill_(0, features, 0);
  inverse_.index_fill_(1, features, 0);
  constexpr std::int64_t kShare = 8;  // of what is gone when the rest moves together
  if (gone_count_ * kShare >= static_cast<std::int64_t>(present_.size())) compact();
}

void Elimination::compact() {
  std::vector<std::int64_t> features, left;
  for (std::size_t i = 0; i < present_.size(); ++i) {
    if (gone_[i]) continue;
    left.push_back(present_[i]);
    for (std::int64_t k = 0; k < width_; ++k) features.push_back(static_cast<std::int64_t>(i) * width_ + k);
  }
  const auto index = at::tensor(features, at::kLong);
  weight_ = weight_.index_select(1, index);
  inverse_ = inverse_.index_select(0, index).index_select(1, index);
  present_ = std::move(left);
  gone_.assign(present_.size(), false);
  gone_count_ = 0;
}

at::Tensor elimination_costs(const at::Tensor& weight, const at::Tensor& variances, std::int64_t units) {
  return (weight.to(at::kDouble).square().sum(0) * variances).view({units, -1}).sum(1);
}

PARE_NAMESPACE_END
