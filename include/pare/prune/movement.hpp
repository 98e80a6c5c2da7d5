#pragma once

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <map>
#include <string>

#include "pare/prune/prunable_weight.hpp"

PARE_NAMESPACE_BEGIN

/// A weight matters as much as training has moved it away from zero: Sanh et al., "Movement Pruning", 2020. Takes the
/// scores that `SparseTraining::movement()` gathered, counted from the smallest of the layer: they compare within a
/// layer, not across layers. In a layer without scores all weights count alike, as 0.
struct Movement {
  std::map<std::string, at::Tensor> scores = {};  ///< by the weight's path, in the weight's shape
  at::Tensor operator()(const PrunableWeight& layer) const {
    const auto found = scores.find(layer.path);
    const auto score = found == scores.end() ? at::zeros_like(layer.weight) : layer.to_rows(found->second);
    return at::where(layer.mask, score - score.min(), at::zeros_like(score));  // pruned weights stay last
  }
};

PARE_NAMESPACE_END
