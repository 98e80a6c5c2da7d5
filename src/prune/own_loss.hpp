#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// A loss where the caller gave none: cross-entropy with the model's own answer for outputs `[N, C]` of several
/// classes, the mean square of others; summed over outputs. Undefined where no output is floating.
[[nodiscard]] at::Tensor own_loss(const std::vector<at::Tensor>& outputs);

PARE_NAMESPACE_END
