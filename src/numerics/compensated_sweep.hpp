#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// A Hessian made ready for a sweep over its features: damped, in order, inverted.
struct SweepOrder {
  std::vector<std::int64_t> order;  ///< features, as they are visited
  at::Tensor factor;  ///< upper triangular U with `H^-1 = U^T U`, float; undefined when H is not positive definite
};
SweepOrder prepare_sweep(const at::Tensor& hessian, double damping, bool largest_first);

/// Visits a layer's input features one after the other: `decide(value, feature, row)` fixes a weight, and the features
/// not yet visited make up for the difference. The loop of GPTQ and SparseGPT.
/// @param weight `[rows, features]` float @param block features whose updates are applied together
template <class Decide>
at::Tensor compensated_sweep(const at::Tensor& weight, const SweepOrder& sweep, std::int64_t block,
                             const Decide& decide) {
  const auto rows = weight.size(0), features = weight.size(1);
  const auto permutation = at::tensor(sweep.order);
  // One feature of all rows is contiguous.
  auto left = weight.detach().to(at::kFloat).t().index_select(0, permutation).contiguous();
  auto* w = left.data_ptr<float>();
  const auto feature_at = [&](std::int64_t k) { return sweep.order[static_cast<std::size_t>(k)]; };
  if (!sweep.factor.defined()) {
    for (std::int64_t k = 0; k < features; ++k)
      for (std::int64_t r = 0; r < rows; ++r) w[k * rows + r] = decide(w[k * rows + r], feature_at(k), r);
  } else {
    const auto* u = sweep.factor.data_ptr<float>();
    auto errors = at::empty({std::min(block, features), rows}, at::kFloat);
    auto* e = errors.data_ptr<float>();
    for (std::int64_t first = 0; first < features; first += block) {
      const auto last = std::min(first + block, features);
      for (auto k = first; k < last; ++k) {
        auto* error = e + (k - first) * rows;
        auto* feature = w + k * rows;
        const float inverse = 1.0F / u[k * features + k];
        for (std::int64_t r = 0; r < rows; ++r) {
          const float fixed = decide(feature[r], feature_at(k), r);
          error[r] = (feature[r] - fixed) * inverse;
          feature[r] = fixed;
        }
        for (auto j = k + 1; j < last; ++j) {
          const float share = u[k * features + j];
          auto* later = w + j * rows;
          for (std::int64_t r = 0; r < rows; ++r) later[r] -= share * error[r];
        }
      }
      if (last < features) {
        auto later = left.narrow(0, last, features - last);
        later.addmm_(sweep.factor.narrow(0, first, last - first).narrow(1, last, features - last).t(),
                     errors.narrow(0, 0, last - first), 1, -1);
      }
    }
  }
  auto result = at::empty_like(left);
  result.index_copy_(0, permutation, left);
  return result.t().contiguous();
}

PARE_NAMESPACE_END
