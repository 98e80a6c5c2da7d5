#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "pare/execute/execution_report.hpp"

PARE_NAMESPACE_BEGIN

/// Where the time of a compiled model goes: a step for each row of its report, timed in its place among the others.
struct ExecutionProfile {
  /// One step: what runs how, and how long it takes, conversions of its operands included.
  struct Step {
    ExecutionReport::Row row;
    double ms = 0;  ///< its share of `call_ms`, as the medians of the steps divide it
  };
  std::string backend;      ///< as in the report
  std::vector<Step> steps;  ///< in order; the last one is what is spent between them
  double call_ms = 0;       ///< lower quartile of whole calls, in which no clock was looked at
  std::size_t runs = 0;     ///< that were timed

  /// The sum of the steps: `call_ms`.
  [[nodiscard]] double steps_ms() const;
  /// A table: milliseconds and percent of every step, in order.
  [[nodiscard]] std::string text() const;
};

PARE_NAMESPACE_END
