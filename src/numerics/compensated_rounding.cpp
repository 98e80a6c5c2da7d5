#include "pare/numerics/compensated_rounding.hpp"

#include <ATen/ATen.h>

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <vector>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Beyond this, LibTorch's LAPACK is faster than its call is slow; depthwise layers have thousands of small ones.
constexpr std::int64_t kSmall = 96;

// Upper triangular U with H^-1 = U^T U, float, or undefined when H is not positive definite.
at::Tensor inverse_factor(const at::Tensor& hessian) {
  const auto size = hessian.size(0);
  if (size <= kSmall) {
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

// One weight's integer and back.
struct Rounder {
  const float* scale;
  const int* zero_point;
  float low, high;
  float operator()(float value, std::int64_t at) const {
    const auto zero = static_cast<float>(zero_point[at]);
    const float integer = std::clamp(std::nearbyint(value / scale[at]) + zero, low, high);
    return (integer - zero) * scale[at];
  }
};

}  // namespace

at::Tensor CompensatedRounding::operator()(const at::Tensor& weight, const at::Tensor& hessian, const at::Tensor& scale,
                                           const at::Tensor& zero_point, const IntegerGrid& grid) const {
  const auto rows = weight.size(0);
  const auto features = weight.size(1);
  if (hessian.dim() != 2 || hessian.size(0) != features || hessian.size(1) != features || scale.dim() != 2 ||
      scale.size(0) != rows || scale.size(1) == 0 || features % scale.size(1) != 0 ||
      zero_point.sizes() != scale.sizes())
    fail("pare.numerics.105", "", "weight [{}, {}] does not fit its hessian or its scales", rows, features);
  const auto per_group = features / scale.size(1);
  const auto scales = scale.t().contiguous();  // [groups, rows]
  const auto zeros = zero_point.t().to(at::kInt).contiguous();
  const Rounder round{scales.data_ptr<float>(), zeros.data_ptr<int>(), static_cast<float>(grid.min),
                      static_cast<float>(grid.max)};

  auto damped = hessian.to(at::kDouble).contiguous().clone();
  auto diagonal = damped.diagonal();
  const double mean = std::max(diagonal.mean().item<double>(), 1e-30);
  diagonal.add_(damping * mean + 1e-9 * mean);
  const auto order = order_of(damped, largest_first);
  const auto permutation = at::tensor(order);
  damped = damped.index_select(0, permutation).index_select(1, permutation).contiguous();
  const auto factor = inverse_factor(damped);

  // One feature of all rows is contiguous.
  auto left = weight.detach().to(at::kFloat).t().index_select(0, permutation).contiguous();
  auto* w = left.data_ptr<float>();
  const auto group_of = [&](std::int64_t k) { return order[static_cast<std::size_t>(k)] / per_group * rows; };
  if (!factor.defined()) {
    for (std::int64_t k = 0; k < features; ++k)
      for (std::int64_t r = 0; r < rows; ++r) w[k * rows + r] = round(w[k * rows + r], group_of(k) + r);
  } else {
    const auto* u = factor.data_ptr<float>();
    auto errors = at::empty({std::min(block, features), rows}, at::kFloat);
    auto* e = errors.data_ptr<float>();
    for (std::int64_t first = 0; first < features; first += block) {
      const auto last = std::min(first + block, features);
      for (auto k = first; k < last; ++k) {
        auto* error = e + (k - first) * rows;
        auto* feature = w + k * rows;
        const float inverse = 1.0F / u[k * features + k];
        for (std::int64_t r = 0; r < rows; ++r) {
          const float rounded = round(feature[r], group_of(k) + r);
          error[r] = (feature[r] - rounded) * inverse;
          feature[r] = rounded;
        }
        for (auto j = k + 1; j < last; ++j) {
          const float share = u[k * features + j];
          auto* later = w + j * rows;
          for (std::int64_t r = 0; r < rows; ++r) later[r] -= share * error[r];
        }
      }
      if (last < features) {
        auto later = left.narrow(0, last, features - last);
        later.addmm_(factor.narrow(0, first, last - first).narrow(1, last, features - last).t(),
                     errors.narrow(0, 0, last - first), 1, -1);
      }
    }
  }
  auto result = at::empty_like(left);
  result.index_copy_(0, permutation, left);
  return result.t().contiguous();
}

PARE_NAMESPACE_END
