#include "examples/zoo/latency.hpp"

#include <algorithm>
#include <chrono>

namespace zoo {

namespace {

constexpr int kRounds = 12;

double time_ms(const Forward& forward, const std::vector<torch::Tensor>& input) {
  const auto start = std::chrono::steady_clock::now();
  static_cast<void>(forward(input));
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Latency summary(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const auto at = [&](double q) { return times[static_cast<std::size_t>(q * static_cast<double>(times.size() - 1))]; };
  return {at(0.5), at(0.99), times.size()};
}

}  // namespace

std::vector<Latency> interleaved(const std::vector<Forward>& contestants, const std::vector<torch::Tensor>& input,
                                 double seconds) {
  std::vector<int> runs;
  std::vector<std::vector<double>> times(contestants.size());
  for (const auto& forward : contestants) {
    for (int i = 0; i < 2; ++i) static_cast<void>(forward(input));  // warm up
    const double turn_ms = seconds * 1000.0 / kRounds / static_cast<double>(contestants.size());
    runs.push_back(std::max(2, static_cast<int>(turn_ms / std::max(0.001, time_ms(forward, input)))));
  }
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < contestants.size(); ++i) {
      static_cast<void>(contestants[i](input));  // the others' data leaves the caches
      for (int run = 0; run < runs[i]; ++run) times[i].push_back(time_ms(contestants[i], input));
    }
  }
  std::vector<Latency> result;
  for (auto& contestant : times) result.push_back(summary(std::move(contestant)));
  return result;
}

std::vector<torch::Tensor> first_samples(const std::vector<std::vector<torch::Tensor>>& batches, std::int64_t count) {
  std::vector<torch::Tensor> samples;
  for (std::size_t input = 0; input < batches.at(0).size(); ++input) {
    std::vector<torch::Tensor> parts;
    std::int64_t rows = 0;
    for (std::size_t b = 0; rows < count; b = (b + 1) % batches.size()) {
      parts.push_back(batches[b][input]);
      rows += parts.back().size(0);
    }
    samples.push_back(torch::cat(parts).narrow(0, 0, count).contiguous());
  }
  return samples;
}

}  // namespace zoo
