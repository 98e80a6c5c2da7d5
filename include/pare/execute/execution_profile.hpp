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
    double ms = 0;  ///< median over the runs
  };
  std::string backend;  ///< as in the report
  std::vector<Step> steps;
  double call_ms = 0;    ///< median of a whole call
  std::size_t runs = 0;  ///< that were timed

  /// The sum of the steps; what `call_ms` has beside it is spent between them (memory for results, looking at clocks).
  [[nodiscard]] double steps_ms() const;
  /// A table: milliseconds and percent of every step, in order.
  [[nodiscard]] std::string text() const;
};

PARE_NAMESPACE_END
