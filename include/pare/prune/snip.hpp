#pragma once

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include "pare/prune/prunable_weight.hpp"

PARE_NAMESPACE_BEGIN

/// A weight matters as much as the loss would change without it, to first order: Lee et al., "SNIP", 2019.
struct Snip {
  static constexpr bool kNeedsGradients = true;
  at::Tensor operator()(const PrunableWeight& layer) const { return (layer.weight * layer.gradient).abs(); }
};

PARE_NAMESPACE_END
