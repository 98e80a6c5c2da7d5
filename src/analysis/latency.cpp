#include "pare/analysis/latency.hpp"

#include <algorithm>
#include <chrono>

PARE_NAMESPACE_BEGIN

namespace {

constexpr int kTurns = 12;

double time_ms(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Latency summary(std::vector<double> times) {
  std::ranges::sort(times);
  const auto at = [&](double q) { return times[static_cast<std::size_t>(q * static_cast<double>(times.size() - 1))]; };
  return {at(0.5), at(0.99), times.size()};
}

}  // namespace

std::vector<Latency> measure_latency(const std::vector<std::function<void()>>& contestants, double seconds) {
  std::vector<int> runs;
  std::vector<std::vector<double>> times(contestants.size());
  for (const auto& contestant : contestants) {
    for (int i = 0; i < 2; ++i) contestant();
    const double turn_ms = seconds * 1000.0 / kTurns / static_cast<double>(contestants.size());
    runs.push_back(std::max(2, static_cast<int>(turn_ms / std::max(0.001, time_ms(contestant)))));
  }
  for (int turn = 0; turn < kTurns; ++turn) {
    for (std::size_t i = 0; i < contestants.size(); ++i) {
      contestants[i]();  // the others' data leaves the caches
      for (int run = 0; run < runs[i]; ++run) times[i].push_back(time_ms(contestants[i]));
    }
  }
  std::vector<Latency> result;
  for (auto& contestant : times) result.push_back(summary(std::move(contestant)));
  return result;
}

PARE_NAMESPACE_END
