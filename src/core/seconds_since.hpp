#pragma once

#include <chrono>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

using Clock = std::chrono::steady_clock;

[[nodiscard]] inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

PARE_NAMESPACE_END
