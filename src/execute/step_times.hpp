#pragma once

#include <functional>
#include <string>
#include <vector>

#include "pare/execute/execution_profile.hpp"

PARE_NAMESPACE_BEGIN

/// Times of a plan's rows over many runs.
class StepTimes {
 public:
  /// Calls `plain` and `timed`, which gives each row's milliseconds, in turns, for about `seconds` and at least five
  /// times; two calls before warm up.
  void repeat(double seconds, const std::function<void()>& plain, const std::function<std::vector<double>()>& timed);
  /// A plain call's lower quartile, divided among the rows as their medians are: looking at the clock takes time, and
  /// calls are disturbed more often than any one step. @param rows one for each time; a last one that took none is left
  /// out
  [[nodiscard]] ExecutionProfile profile(std::string backend, std::vector<ExecutionReport::Row> rows) const;

 private:
  std::vector<std::vector<double>> runs_;
  std::vector<double> calls_, timed_calls_;
};

PARE_NAMESPACE_END
