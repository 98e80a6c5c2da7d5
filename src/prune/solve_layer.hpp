#pragma once

#include "pare/numerics/optimal_brain_surgeon.hpp"
#include "prune/sparse_layer.hpp"

PARE_NAMESPACE_BEGIN

/// `OptimalBrainSurgeon` group by group. @param cross undefined: the hessian
inline OptimalBrainSurgeon::Result solve_layer(const MatrixForm& form, const at::Tensor& weight, const at::Tensor& mask,
                                               const at::Tensor& hessian, const at::Tensor& cross = {}) {
  OptimalBrainSurgeon::Result result{at::empty_like(weight), at::empty_like(weight), true};
  for (std::int64_t group = 0; group < form.groups; ++group) {
    const auto first = group * form.outputs;
    const auto part = OptimalBrainSurgeon{}(weight.narrow(0, first, form.outputs), mask.narrow(0, first, form.outputs),
                                            hessian[group], cross.defined() ? cross[group] : at::Tensor());
    result.weight.narrow(0, first, form.outputs).copy_(part.weight);
    result.inverse_diagonal.narrow(0, first, form.outputs).copy_(part.inverse_diagonal);
    result.exact = result.exact && part.exact;
  }
  return result;
}

PARE_NAMESPACE_END
