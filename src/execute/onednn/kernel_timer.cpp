#include "execute/onednn/kernel_timer.hpp"

#include <algorithm>
#include <chrono>
#include <unordered_map>

PARE_NAMESPACE_BEGIN

namespace {

constexpr int kFewestRuns = 2, kMostRuns = 6;
constexpr double kEnoughSeconds = 4e-3;  // of all runs together

constexpr std::size_t paged(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

double KernelTimer::seconds(const dnnl::primitive& primitive, const std::vector<PlanArgument>& arguments) {
  std::size_t bytes = 0;
  for (const auto& argument : arguments)
    if (argument.buffer >= 0) bytes += paged(argument.layout.get_size());
  if (memory_.size() < bytes) memory_ = PageMemory(bytes);
  auto* next = memory_.data();
  std::unordered_map<int, dnnl::memory> bound;
  for (const auto& argument : arguments) {
    if (argument.buffer < 0) {
      bound.emplace(argument.argument, argument.constant);
      continue;
    }
    bound.emplace(argument.argument, dnnl::memory(argument.layout, cpu_engine(), next));
    next += paged(argument.layout.get_size());
  }
  const dnnl::stream stream(cpu_engine());
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double best = 0;
  for (int run = 0; run <= kMostRuns; ++run) {
    const auto before = Clock::now();
    primitive.execute(stream, bound);
    const auto after = Clock::now();
    const auto time = std::chrono::duration<double>(after - before).count();
    if (run == 0) continue;  // warms the caches
    best = run == 1 ? time : std::min(best, time);
    if (run >= kFewestRuns && std::chrono::duration<double>(after - start).count() > kEnoughSeconds) break;
  }
  return best;
}

PARE_NAMESPACE_END
