#pragma once

#include <span>
#include <string_view>

#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

/// A fusion rule: which followers a family's kernel can take in. Data, so that a target may state its own.
struct FusionRule {
  OpFamily family;
  bool batch_norm;                                ///< absorbed into weight and bias
  bool residual_add;                              ///< `y + x` where x has exactly y's type
  std::span<const std::string_view> activations;  ///< op names; empty: none
  bool channel_scale;                             ///< a product with a weight vector, last
};

PARE_NAMESPACE_END
