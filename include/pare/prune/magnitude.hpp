#pragma once

#include <ATen/Functions.h>

#include "pare/prune/prunable_weight.hpp"

PARE_NAMESPACE_BEGIN

/// A weight matters as much as it is large: Han et al., "Learning both Weights and Connections", 2015.
struct Magnitude {
  at::Tensor operator()(const PrunableWeight& layer) const { return layer.weight.abs(); }
};

PARE_NAMESPACE_END
