#pragma once

#include <string_view>

#include "pare/analysis/latency_table.hpp"

PARE_NAMESPACE_BEGIN

/// What this machine reaches at most, as far as kernels here get: the roof of a roofline.
struct MachineLimits {
  double float32_gops = 0, bf16_gops = 0, int8_gops = 0;  ///< 10^9 operations in a second, a large matrix product
  double gbytes = 0;                                      ///< 10^9 bytes in a second, a copy that no cache holds
  /// Of a precision by its name, `int8`, `bf16`, else float32.
  [[nodiscard]] double gops(std::string_view precision) const;
  /// 10^9 operations in a second at so many operations for each byte moved.
  [[nodiscard]] double roof(std::string_view precision, double intensity) const;
};

/// Measured once (two seconds), then read from the table.
[[nodiscard]] MachineLimits machine_limits(LatencyTable& table);

PARE_NAMESPACE_END
