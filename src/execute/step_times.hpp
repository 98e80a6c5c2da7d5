#pragma once

#include <functional>
#include <string>
#include <vector>

#include "pare/execute/execution_profile.hpp"

PARE_NAMESPACE_BEGIN

/// Times of a plan's rows over many runs.
class StepTimes {
 public:
  /// Calls `run`, which gives each row's milliseconds, for about `seconds` and at least five times; two calls before
  /// warm up.
  void repeat(double seconds, const std::function<std::vector<double>()>& run);
  /// The medians. @param rows one for each time; a last one that took none is left out
  [[nodiscard]] ExecutionProfile profile(std::string backend, std::vector<ExecutionReport::Row> rows) const;

 private:
  std::vector<std::vector<double>> runs_;
  std::vector<double> calls_;
};

PARE_NAMESPACE_END
