#include "pare/numerics/optimal_brain_surgeon.hpp"

#include <ATen/Parallel.h>

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "compensated_sweep.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::VectorXd;

// H = L L^T. Undamped, a hessian of few samples is singular: as much is added to its diagonal as it takes.
Eigen::LLT<Matrix> factor_of(Matrix hessian) {
  Eigen::LLT<Matrix> factor(hessian);
  const double mean = hessian.rows() > 0 ? hessian.diagonal().mean() : 0;
  for (double damping = 1e-10; factor.info() != Eigen::Success && damping < 1; damping *= 10) {
    hessian.diagonal().array() += damping * mean;
    factor.compute(hessian);
  }
  return factor;
}

// The weights of one row that stay, solved and judged from H_SS.
void solve_kept(const Eigen::Map<const Matrix>& hessian, const std::vector<Eigen::Index>& kept, const double* target,
                float* weight, float* inverse_diagonal) {
  const auto factor = factor_of(hessian(kept, kept));
  const Vector right = Eigen::Map<const Vector>(target, hessian.cols())(kept);
  const Vector solution = factor.solve(right);
  // The diagonal of the inverse is the squared norms of the columns of L^-1, which are zero above the diagonal.
  constexpr Eigen::Index kBlock = 64;
  const auto size = static_cast<Eigen::Index>(kept.size());
  Vector diagonal(size);
  for (Eigen::Index first = 0; first < size; first += kBlock) {
    const auto rest = size - first, width = std::min(kBlock, rest);
    Matrix columns = Matrix::Identity(rest, width);
    factor.matrixLLT().bottomRightCorner(rest, rest).triangularView<Eigen::Lower>().solveInPlace(columns);
    diagonal.segment(first, width) = columns.colwise().squaredNorm();
  }
  for (Eigen::Index i = 0; i < size; ++i) {
    const auto feature = kept[static_cast<std::size_t>(i)];
    weight[feature] = static_cast<float>(solution[i]);
    inverse_diagonal[feature] = static_cast<float>(diagonal[i]);
  }
}

double work_of_kept(double kept) { return kept * kept * kept / 3; }

// The same from G = H^-1, for rows that lose few weights P: v = u - G_:P G_PP^-1 u_P where u = G t is what all weights
// would be, and [H_SS^-1] = G_SS - G_SP G_PP^-1 G_PS.
class WholeInverse {
 public:
  explicit WholeInverse(const Eigen::Map<const Matrix>& hessian)
      : inverse_(factor_of(hessian).solve(Matrix::Identity(hessian.rows(), hessian.cols()))) {}

  static double work(double removed, double features) { return removed * removed * (removed / 6 + features / 2 + 1); }

  void solve(const std::vector<Eigen::Index>& kept, const std::vector<Eigen::Index>& removed, const double* target,
             float* weight, float* inverse_diagonal) const {
    Vector solution = inverse_ * Eigen::Map<const Vector>(target, inverse_.cols());
    Vector diagonal = inverse_.diagonal();
    if (!removed.empty()) {
      const auto factor = factor_of(inverse_(removed, removed));
      Matrix part = inverse_(removed, Eigen::all);
      factor.matrixL().solveInPlace(part);
      Vector own = solution(removed);
      factor.matrixL().solveInPlace(own);
      solution.noalias() -= part.transpose() * own;
      diagonal -= part.colwise().squaredNorm().transpose();
    }
    for (const auto i : kept) {
      weight[i] = static_cast<float>(solution[i]);
      // What is left of a hessian that is all but singular may have cancelled to nothing.
      inverse_diagonal[i] = static_cast<float>(std::max(diagonal[i], 1e-12 * inverse_(i, i)));
    }
  }

 private:
  Matrix inverse_;
};

std::vector<Eigen::Index> where(const bool* mask, std::int64_t features, bool value) {
  std::vector<Eigen::Index> found;
  for (std::int64_t i = 0; i < features; ++i)
    if (mask[i] == value) found.push_back(i);
  return found;
}

// Whether the whole inverse is less work for a row.
bool loses_few(double kept, double features) {
  return WholeInverse::work(features - kept, features) < work_of_kept(kept);
}

double work_of(const at::Tensor& mask) {
  const auto features = static_cast<double>(mask.size(1));
  const auto counts = mask.sum(1).to(at::kDouble);
  double work = 0;
  for (const auto kept : std::span(counts.const_data_ptr<double>(), static_cast<std::size_t>(counts.numel())))
    work += std::min(WholeInverse::work(features - kept, features), work_of_kept(kept));
  return work;
}

// One factor for all rows, and a sweep that zeroes what the mask takes.
OptimalBrainSurgeon::Result sweep(const OptimalBrainSurgeon& solver, const at::Tensor& weight, const at::Tensor& mask,
                                  const at::Tensor& hessian) {
  const auto order = prepare_sweep(hessian, solver.damping, /*largest_first=*/true);
  const auto features = weight.size(1);
  const auto* keep = mask.data_ptr<bool>();
  OptimalBrainSurgeon::Result result;
  result.exact = false;
  result.weight =
      compensated_sweep(weight, order, solver.block, [&](float value, std::int64_t feature, std::int64_t row) {
        return keep[row * features + feature] ? value : 0.0F;
      });
  result.inverse_diagonal = at::ones_like(weight);
  if (order.factor.defined()) {
    // [H^-1]_pp from H^-1 = U^T U, put back in the features' own order.
    const auto diagonal = order.factor.square().sum(0);
    const auto own = at::empty_like(diagonal).index_copy_(0, at::tensor(order.order), diagonal);
    result.inverse_diagonal = at::where(mask, own.unsqueeze(0), result.inverse_diagonal).contiguous();
  }
  return result;
}

// The solver works on the CPU, wherever the layer is.
OptimalBrainSurgeon::Result on(at::Device device, OptimalBrainSurgeon::Result result) {
  result.weight = result.weight.to(device);
  result.inverse_diagonal = result.inverse_diagonal.to(device);
  return result;
}

}  // namespace

OptimalBrainSurgeon::Result OptimalBrainSurgeon::operator()(const at::Tensor& weight, const at::Tensor& mask,
                                                            const at::Tensor& hessian, const at::Tensor& cross) const {
  const auto rows = weight.size(0), features = weight.size(1);
  const bool fits = mask.sizes() == weight.sizes() && hessian.dim() == 2 && hessian.size(0) == features &&
                    hessian.size(1) == features && (!cross.defined() || cross.sizes() == hessian.sizes());
  if (!fits) fail("pare.numerics.123", "", "weight [{}, {}] does not fit its mask or its moments", rows, features);
  const auto dense = weight.detach().to(at::kCPU, at::kFloat).contiguous();
  const auto keep = mask.to(at::kCPU, at::kBool).contiguous();
  if (work_of(keep) > work_limit) return on(weight.device(), sweep(*this, dense, keep, hessian));

  auto damped = hessian.to(at::kCPU, at::kDouble).contiguous().clone();
  const double mean = std::max(damped.diagonal().mean().item<double>(), 1e-30);
  const double extra = damping * mean + 1e-9 * mean;
  damped.diagonal().add_(extra);
  const auto rows_double = dense.to(at::kDouble);
  auto target = at::matmul(rows_double, (cross.defined() ? cross : hessian).to(at::kCPU, at::kDouble).t());
  target.add_(rows_double, extra);  // damping pulls towards the weights as they were, not towards zero
  target = target.contiguous();

  Result result{at::zeros_like(dense), at::ones_like(dense), true};
  const Eigen::Map<const Matrix> h(damped.data_ptr<double>(), features, features);
  const auto* targets = target.data_ptr<double>();
  const auto* masks = keep.data_ptr<bool>();
  auto* weights = result.weight.data_ptr<float>();
  auto* diagonals = result.inverse_diagonal.data_ptr<float>();
  const auto fullest = static_cast<double>(keep.sum(1).max().item<std::int64_t>());
  std::optional<WholeInverse> whole;
  if (loses_few(fullest, static_cast<double>(features))) whole.emplace(h);
  at::parallel_for(0, rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto row = begin; row < end; ++row) {
      const auto offset = row * features;
      const auto kept = where(masks + offset, features, true);
      if (kept.empty()) continue;
      if (loses_few(static_cast<double>(kept.size()), static_cast<double>(features)))
        whole->solve(kept, where(masks + offset, features, false), targets + offset, weights + offset,
                     diagonals + offset);
      else
        solve_kept(h, kept, targets + offset, weights + offset, diagonals + offset);
    }
  });
  return on(weight.device(), std::move(result));
}

PARE_NAMESPACE_END
