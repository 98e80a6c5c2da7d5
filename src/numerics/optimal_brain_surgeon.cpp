#include "pare/numerics/optimal_brain_surgeon.hpp"

#include <ATen/Parallel.h>

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include "compensated_sweep.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::VectorXd;

// The weights of one row that stay, solved and judged.
class RowSolver {
 public:
  // H_SS = L L^T: the diagonal of its inverse is the squared norms of the columns of L^-1.
  RowSolver(const Eigen::Map<const Matrix>& hessian, std::vector<Eigen::Index> kept) : kept_(std::move(kept)) {
    const auto size = static_cast<Eigen::Index>(kept_.size());
    Matrix part(size, size);
    for (Eigen::Index i = 0; i < size; ++i)
      for (Eigen::Index j = 0; j < size; ++j)
        part(i, j) = hessian(kept_[static_cast<std::size_t>(i)], kept_[static_cast<std::size_t>(j)]);
    factor_.compute(part);
    // Undamped, a hessian of few samples is singular: as much is added as it takes.
    const double mean = size > 0 ? part.diagonal().mean() : 0;
    for (double damping = 1e-10; factor_.info() != Eigen::Success && damping < 1; damping *= 10) {
      part.diagonal().array() += damping * mean;
      factor_.compute(part);
    }
    Matrix inverse = Matrix::Identity(size, size);
    factor_.matrixL().solveInPlace(inverse);
    inverse_diagonal_ = inverse.colwise().squaredNorm();
  }

  void solve(const double* target, float* weight, float* inverse_diagonal) const {
    Vector right(static_cast<Eigen::Index>(kept_.size()));
    for (std::size_t i = 0; i < kept_.size(); ++i) right[static_cast<Eigen::Index>(i)] = target[kept_[i]];
    const Vector solution = factor_.solve(right);
    for (std::size_t i = 0; i < kept_.size(); ++i) {
      weight[kept_[i]] = static_cast<float>(solution[static_cast<Eigen::Index>(i)]);
      inverse_diagonal[kept_[i]] = static_cast<float>(inverse_diagonal_[static_cast<Eigen::Index>(i)]);
    }
  }

 private:
  std::vector<Eigen::Index> kept_;
  Eigen::LLT<Matrix> factor_;
  Vector inverse_diagonal_;
};

std::vector<Eigen::Index> kept_in(const bool* mask, std::int64_t features) {
  std::vector<Eigen::Index> kept;
  for (std::int64_t i = 0; i < features; ++i)
    if (mask[i]) kept.push_back(i);
  return kept;
}

double work_of(const at::Tensor& mask) { return mask.sum(1).to(at::kDouble).pow(3).sum().item<double>(); }

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
  const bool all = keep.all().item<bool>();
  if (!all && work_of(keep) > work_limit) return on(weight.device(), sweep(*this, dense, keep, hessian));

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
  std::unique_ptr<const RowSolver> shared;
  if (all) shared = std::make_unique<const RowSolver>(h, kept_in(masks, features));
  at::parallel_for(0, rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto row = begin; row < end; ++row) {
      const auto offset = row * features;
      if (shared) {
        shared->solve(targets + offset, weights + offset, diagonals + offset);
        continue;
      }
      auto kept = kept_in(masks + offset, features);
      if (kept.empty()) continue;
      RowSolver(h, std::move(kept)).solve(targets + offset, weights + offset, diagonals + offset);
    }
  });
  return on(weight.device(), std::move(result));
}

PARE_NAMESPACE_END
