#include "execute/step_times.hpp"

#include <algorithm>
#include <chrono>

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::size_t kFewestRuns = 5, kMostRuns = 2000;

double middle(std::vector<double> times) {
  const auto at = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::ranges::nth_element(times, at);
  return *at;
}

}  // namespace

void StepTimes::repeat(double seconds, const std::function<std::vector<double>()>& run) {
  using Clock = std::chrono::steady_clock;
  for (int i = 0; i < 2; ++i) static_cast<void>(run());
  const auto start = Clock::now();
  while (runs_.size() < kMostRuns) {
    const auto before = Clock::now();
    runs_.push_back(run());
    const auto after = Clock::now();
    calls_.push_back(std::chrono::duration<double, std::milli>(after - before).count());
    if (runs_.size() >= kFewestRuns && std::chrono::duration<double>(after - start).count() > seconds) break;
  }
}

ExecutionProfile StepTimes::profile(std::string backend, std::vector<ExecutionReport::Row> rows) const {
  ExecutionProfile profile;
  profile.backend = std::move(backend);
  profile.runs = runs_.size();
  profile.call_ms = calls_.empty() ? 0.0 : middle(calls_);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    std::vector<double> times;
    for (const auto& run : runs_) times.push_back(run.at(row));
    const auto ms = times.empty() ? 0.0 : middle(std::move(times));
    if (row + 1 == rows.size() && ms == 0) break;
    profile.steps.push_back({std::move(rows[row]), ms});
  }
  return profile;
}

PARE_NAMESPACE_END
