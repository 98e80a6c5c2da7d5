#include "elimination.hpp"

#include <ATen/ATen.h>

#include <limits>

PARE_NAMESPACE_BEGIN

namespace {

at::Tensor inverse_of(const at::Tensor& covariance, double damping) {
  auto damped = covariance.clone();
  const auto mean = std::max(damped.diagonal().mean().item<double>(), 1e-30);
  damped.diagonal().add_((damping + 1e-9) * mean);
  const auto [factor, info] = at::linalg_cholesky_ex(damped);
  if (info.item<int>() == 0) return at::cholesky_inverse(factor).to(at::kFloat);
  damped.diagonal().add_(mean);  // a numerically singular covariance: lean on the diagonal
  return at::linalg_inv(damped).to(at::kFloat);
}

}  // namespace

Elimination::Elimination(const at::Tensor& weight, const at::Tensor& covariance, at::Tensor blocks, double damping)
    : weight_(weight.to(at::kFloat)),
      inverse_(inverse_of(covariance, damping)),
      blocks_(std::move(blocks)),
      gone_(at::zeros({blocks_.size(0)}, at::kBool)) {}

at::Tensor Elimination::costs() const {
  const auto units = blocks_.size(0), width = blocks_.size(1);
  const auto columns = weight_.index_select(1, blocks_.flatten()).view({-1, units, width}).permute({1, 0, 2});
  at::Tensor costs;
  if (width == 1) {
    costs = columns.square().sum({1, 2}) / inverse_.diagonal().index_select(0, blocks_.flatten()).clamp_min(1e-30);
  } else {
    auto inner = inverse_.index({blocks_.unsqueeze(2), blocks_.unsqueeze(1)});  // [units, width, width]
    inner = inner.clone();
    inner.index_put_({gone_}, at::eye(width, at::kFloat));
    const auto solved = at::linalg_solve(inner, columns.transpose(1, 2));  // [units, width, outputs]
    costs = (solved * columns.transpose(1, 2)).sum({1, 2});
  }
  return costs.to(at::kDouble).clamp_min(0.0).masked_fill(gone_, std::numeric_limits<double>::infinity());
}

void Elimination::remove(const std::vector<std::int64_t>& units) {
  const auto chosen = at::tensor(units, at::kLong);
  const auto features = blocks_.index_select(0, chosen).flatten();
  const auto rows = inverse_.index_select(0, features);                        // [J, F]
  const auto solved = at::linalg_solve(rows.index_select(1, features), rows);  // [J, F]
  weight_.addmm_(weight_.index_select(1, features), solved, 1, -1);
  inverse_.addmm_(rows.t(), solved, 1, -1);
  weight_.index_fill_(1, features, 0);
  inverse_.index_fill_(0, features, 0);
  inverse_.index_fill_(1, features, 0);
  gone_.index_fill_(0, chosen, true);
}

at::Tensor elimination_costs(const at::Tensor& weight, const at::Tensor& variances, const at::Tensor& blocks) {
  const auto each = weight.square().sum(0) * variances;
  return each.index_select(0, blocks.flatten()).view(blocks.sizes()).sum(1);
}

PARE_NAMESPACE_END
