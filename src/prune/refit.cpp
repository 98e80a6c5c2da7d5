#include "refit.hpp"

#include <ATen/ATen.h>

PARE_NAMESPACE_BEGIN

namespace {

bool finite(const at::Tensor& tensor) { return tensor.isfinite().all().item<bool>(); }

}  // namespace

Refit::Refit(const at::Tensor& weight) : weight_(weight.to(at::kFloat)) {}

void Refit::observe(const at::Tensor& features, const at::Tensor& targets) {
  const auto residuals = targets - features.matmul(weight_.t());
  const auto add = [](at::Tensor& sum, const at::Tensor& part) { sum = sum.defined() ? sum + part : part; };
  add(products_, features.t().matmul(features).to(at::kDouble));
  add(cross_, features.t().matmul(residuals).to(at::kDouble));
  add(features_, features.sum(0, false, at::kDouble));
  add(residuals_, residuals.sum(0, false, at::kDouble));
  samples_ += features.size(0);
}

bool Refit::is_finite() const { return samples_ > 0 && finite(products_) && finite(cross_) && finite(residuals_); }

Refit::Solution Refit::solve(double ridge) const {
  const auto n = static_cast<double>(samples_);
  const auto mean = features_ / n, missing = residuals_ / n;
  auto covariance = products_ / n - at::outer(mean, mean);
  const auto cross = cross_ / n - at::outer(mean, missing);
  const auto level = std::max(covariance.diagonal().mean().item<double>(), 1e-30);
  // So few samples hold noise to fit as well: the pull is as strong as what they would be fitted by chance.
  const auto pull = std::max(ridge, static_cast<double>(features_.size(0)) / n);
  covariance.diagonal().add_((pull + 1e-9) * level);
  const auto [factor, info] = at::linalg_cholesky_ex(covariance);
  Solution solution{weight_, missing};
  if (info.item<int>() != 0) return solution;
  const auto change = at::cholesky_solve(cross, factor);  // [features, outputs]
  if (!finite(change)) return solution;
  solution.weight = weight_ + change.t().to(at::kFloat);
  solution.offset = missing - change.t().matmul(mean);
  return solution;
}

void Moments::observe(const at::Tensor& values) {
  const auto flat = values.to(at::kFloat).transpose(0, 1).flatten(1);
  const auto sum = flat.sum(1, false, at::kDouble), squares = flat.square().sum(1, false, at::kDouble);
  sum_ = sum_.defined() ? sum_ + sum : sum;
  squares_ = squares_.defined() ? squares_ + squares : squares;
  count_ += static_cast<double>(flat.size(1));
}

bool Moments::is_finite() const { return count_ > 0 && finite(sum_) && finite(squares_); }
at::Tensor Moments::mean() const { return sum_ / count_; }
at::Tensor Moments::variance() const { return squares_ / count_ - mean().square(); }

PARE_NAMESPACE_END
