#include "joint_latency.hpp"

#include <algorithm>
#include <iterator>

#include "pare/analysis/latency.hpp"
#include "pare/analysis/layer_latency.hpp"

PARE_NAMESPACE_BEGIN

namespace {

double interpolated(const std::map<double, double>& times, double left) {
  const auto above = times.lower_bound(left);
  if (above == times.begin()) return above->second;
  const auto below = std::prev(above);
  if (above == times.end()) return below->second;
  const auto share = (left - below->first) / (above->first - below->first);
  return below->second + share * (above->second - below->second);
}

}  // namespace

JointLatency::JointLatency(const JointSize& size, Batch inputs, CompileOptions compile, double seconds)
    : size_(size), inputs_(std::move(inputs)), compile_(std::move(compile)), seconds_(seconds) {}

double JointLatency::measure(const Selected& selected, const Model& model) {
  const auto compiled = pare::compile(model, compile_);
  std::vector<std::function<void()>> contestants{[&] { static_cast<void>(compiled.run(inputs_)); }};
  if (first_) contestants.emplace_back([&] { static_cast<void>(first_->run(inputs_)); });
  const auto times = measure_latency(contestants, seconds_);
  auto ms = times[0].median_ms;
  if (first_) {
    ms *= first_ms_ / times[1].median_ms;
  } else {
    first_ = compiled;
    first_ms_ = ms;
  }

  // How much of it is whose.
  LatencyTable table({}, compile_.threads);
  const LayerLatency layers(model, inputs_, table, compile_, seconds_);
  const auto scale = ms / layers.total_ms();
  std::map<std::string, double> each;
  for (const auto& row : layers.rows()) each[row.layer] += scale * row.ms;
  const auto left = size_.left(selected);
  for (const auto& [weight, own] : each) {
    const auto found = left.find(weight);
    const auto [at, fresh] = layers_[weight].emplace(found == left.end() ? 1.0 : found->second, own);
    if (!fresh) at->second = std::min(at->second, own);
  }
  return ms;
}

double JointLatency::predict(const Selected& selected) const {
  const auto left = size_.left(selected);
  double sum = 0;
  for (const auto& [weight, times] : layers_) {
    const auto found = left.find(weight);
    sum += interpolated(times, found == left.end() ? 1.0 : found->second);
  }
  return sum;
}

PARE_NAMESPACE_END
