#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Times of one contestant.
struct Latency {
  double median_ms = 0;
  double p99_ms = 0;
  std::size_t runs = 0;
};

/// Times several functions in turns, so that a noisy machine hits all of them alike.
///
/// Each turn calls a contestant often enough to be in its own caches; at least 12 turns, about `seconds` in all.
/// @param contestants each call is one run; two calls of each warm up
[[nodiscard]] std::vector<Latency> measure_latency(const std::vector<std::function<void()>>& contestants,
                                                   double seconds);

PARE_NAMESPACE_END
