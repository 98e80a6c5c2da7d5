#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// One tensor of a model's weight table.
struct Weight {
  at::Tensor tensor;                 ///< the live module's own tensor until it is written
  bool is_parameter = false;         ///< parameter (trained) or buffer / constant
  std::vector<std::string> aliases;  ///< further paths under which the module registers this same tensor (tied weights)
};

/// Path → tensor. Copies share tensors; writing one replaces the entry, so the live module and other copies keep
/// theirs.
using Weights = std::map<std::string, Weight, std::less<>>;

PARE_NAMESPACE_END
