#pragma once

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include "pare/prune/prunable_weight.hpp"

PARE_NAMESPACE_BEGIN

/// A weight matters as much as it is large times the norm of its input, the criterion of Wanda: Sun et al., "A Simple
/// and Effective Pruning Approach for Large Language Models", 2023.
struct ActivationMagnitude {
  static constexpr bool kNeedsInputs = true;
  at::Tensor operator()(const PrunableWeight& layer) const {
    const auto norms = layer.second_moment.diagonal(0, 1, 2).sqrt().to(at::kFloat);  // [groups, features]
    return layer.weight.abs() * norms.repeat_interleave(layer.weight.size(0) / layer.groups, 0);
  }
};

PARE_NAMESPACE_END
