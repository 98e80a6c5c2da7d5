#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// The vectors along an axis, each of length 1; those of zeros stay zeros, with finite gradients.
inline at::Tensor unit_length(const at::Tensor& vectors, std::int64_t dim) {
  return vectors / vectors.square().sum(dim, /*keepdim=*/true).clamp_min(1e-12).sqrt();
}

PARE_NAMESPACE_END
