#pragma once

#include <optional>

#include "pare/core/literals.hpp"

PARE_NAMESPACE_BEGIN

/// What may be lost and what must be won. Unset: no limit.
struct Budget {
  std::optional<Ratio> max_drop = {};     ///< of the metric, absolute: `1_pct` allows 0.97 -> 0.96
  std::optional<Bytes> bytes = {};        ///< of the compiled model's weights
  std::optional<double> latency_ms = {};  ///< median of one call on the example
  std::optional<Bytes> stored = {};       ///< of the weights, each stored at its own width (`WeightStorage`)
};

PARE_NAMESPACE_END
