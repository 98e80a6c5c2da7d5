#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Samples of a batch: entries of its first tensor along the first axis; 1 where no tensor has an axis.
inline std::int64_t samples_of(const std::vector<at::Tensor>& batch) {
  const auto first = std::ranges::find_if(batch, [](const auto& one) { return one.defined() && one.dim() > 0; });
  return first == batch.end() ? 1 : first->size(0);
}

PARE_NAMESPACE_END
