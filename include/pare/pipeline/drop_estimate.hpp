#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// By how much a metric fell, as far as a sample of the data can tell.
struct DropEstimate {
  double drop = 0;  ///< mean score before less mean score after: what was seen
  double low = 0;   ///< the interval that holds the true drop 95 times in 100
  double high = 0;
  std::int64_t samples = 0;

  /// `0.0023 (-0.0019 to 0.0065 at 95 %, 1024 samples)`
  [[nodiscard]] std::string text() const;
};

/// Compares scores of the same samples, before and after: only samples whose score changed make the interval wide.
///
/// Scores of 0 and 1 (right or wrong) get the interval for paired proportions of Bonett and Price (2012), which holds
/// for few samples and where nothing changed; others the normal one of the mean difference.
/// @param before,after `[samples]`
/// @throws Error `pare.pipeline.104` for scores that are not as many, or none
[[nodiscard]] DropEstimate estimate_drop(const at::Tensor& before, const at::Tensor& after);

PARE_NAMESPACE_END
