#include "execute/step_times.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::size_t kFewestRuns = 5, kMostRuns = 2000;

double quantile(std::vector<double> times, double share) {
  const auto at = times.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(times.size() - 1));
  std::ranges::nth_element(times, at);
  return *at;
}

}  // namespace

void StepTimes::repeat(double seconds, const std::function<void()>& plain,
                       const std::function<std::vector<double>()>& timed) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  };
  for (int i = 0; i < 2; ++i) plain();
  const auto start = Clock::now();
  while (runs_.size() < kMostRuns) {
    auto before = Clock::now();
    plain();
    calls_.push_back(since(before));
    before = Clock::now();
    runs_.push_back(timed());
    timed_calls_.push_back(since(before));
    if (runs_.size() >= kFewestRuns && since(start) > 1000 * seconds) break;
  }
}

ExecutionProfile StepTimes::profile(std::string backend, std::vector<ExecutionReport::Row> rows) const {
  ExecutionProfile profile;
  profile.backend = std::move(backend);
  profile.runs = runs_.size();
  if (runs_.empty()) return profile;
  profile.call_ms = quantile(calls_, 0.25);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    std::vector<double> times;
    for (const auto& run : runs_) times.push_back(run.at(row));
    const auto ms = quantile(std::move(times), 0.5);
    if (row + 1 == rows.size() && ms == 0) break;
    profile.steps.push_back({std::move(rows[row]), ms});
  }
  std::vector<double> between;
  for (std::size_t run = 0; run < runs_.size(); ++run)
    between.push_back(std::max(0.0, timed_calls_[run] - std::accumulate(runs_[run].begin(), runs_[run].end(), 0.0)));
  profile.steps.push_back(
      {{.name = "(between steps)", .op = "-", .fused = {}, .precision = "-", .implementation = "-", .reason = {}},
       quantile(std::move(between), 0.5)});
  const auto sum = profile.steps_ms();
  for (auto& step : profile.steps) step.ms *= sum > 0 ? profile.call_ms / sum : 0.0;
  return profile;
}

PARE_NAMESPACE_END
