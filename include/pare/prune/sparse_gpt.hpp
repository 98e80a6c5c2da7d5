#pragma once

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include "pare/prune/prunable_weight.hpp"

PARE_NAMESPACE_BEGIN

/// A weight matters as much as its loss costs the layer's output once the other weights have made up for it: Frantar
/// and Alistarh, "SparseGPT", 2023; LeCun's Optimal Brain Damage with what Hassibi's Surgeon adds.
struct SparseGPT {
  static constexpr bool kNeedsInputs = true;
  at::Tensor operator()(const PrunableWeight& layer) const { return layer.weight.square() / layer.inverse_diagonal; }
};

PARE_NAMESPACE_END
