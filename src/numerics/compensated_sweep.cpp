#include "compensated_sweep.hpp"

#include <Eigen/Cholesky>
#include <Eigen/Core>

PARE_NAMESPACE_BEGIN

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Beyond this, LibTorch's LAPACK is faster than its call is slow; depthwise layers have thousands of small ones.
constexpr std::int64_t kSmallBlock = 96;

// Upper triangular U with H^-1 = U^T U, float, or undefined when H is not positive definite.
at::Tensor inverse_factor(const at::Tensor& hessian) {
  const auto size = hessian.size(0);
  if (size <= kSmallBlock) {
    const Eigen::Map<const Matrix> h(hessian.data_ptr<double>(), size, size);
    const Eigen::LLT<Matrix> factor(h);
    if (factor.info() != Eigen::Success) return {};
    const Matrix inverse = factor.solve(Matrix::Identity(size, size));
    const Eigen::LLT<Matrix> of_inverse(inverse);
    if (of_inverse.info() != Eigen::Success) return {};
    auto result = at::empty({size, size}, at::kFloat);
    Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
        result.data_ptr<float>(), size, size) = Matrix(of_inverse.matrixU()).cast<float>();
    return result;
  }
  const auto [factor, info] = at::linalg_cholesky_ex(hessian);
  if (info.item<int>() != 0) return {};
  const auto [upper, inverse_info] = at::linalg_cholesky_ex(at::cholesky_inverse(factor), /*upper=*/true);
  if (inverse_info.item<int>() != 0) return {};
  return upper.to(at::kFloat).contiguous();
}

std::vector<std::int64_t> order_of(const at::Tensor& hessian, bool largest_first) {
  const auto size = hessian.size(0);
  std::vector<std::int64_t> order(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < size; ++i) order[static_cast<std::size_t>(i)] = i;
  const auto* h = hessian.data_ptr<double>();
  if (largest_first)
    std::ranges::stable_sort(order, [&](auto a, auto b) { return h[a * (size + 1)] > h[b * (size + 1)]; });
  return order;
}

}  // namespace

SweepOrder prepare_sweep(const at::Tensor& hessian, double damping, bool largest_first) {
  auto damped = hessian.to(at::kCPU, at::kDouble).contiguous().clone();
  auto diagonal = damped.diagonal();
  const double mean = std::max(diagonal.mean().item<double>(), 1e-30);
  diagonal.add_(damping * mean + 1e-9 * mean);
  SweepOrder sweep{order_of(damped, largest_first), {}};
  const auto permutation = at::tensor(sweep.order);
  sweep.factor = inverse_factor(damped.index_select(0, permutation).index_select(1, permutation).contiguous());
  return sweep;
}

PARE_NAMESPACE_END
