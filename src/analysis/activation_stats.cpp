#include "pare/analysis/activation_stats.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <ostream>
#include <unordered_map>

#include "pare/core/error.hpp"
#include "pare/graph/fusion.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr double kFarOut = 6;  // deviations

/// Sums of one layer over all batches.
struct Sums {
  std::string name;
  std::optional<std::int64_t> axis = {};  // of the channels; none where their number is another in each batch
  // Of the values less the first one: powers of values far from zero would cancel each other.
  double count = 0, origin = 0, one = 0, two = 0, three = 0, four = 0, far_out = 0;
  at::Tensor low = {}, high = {};  // of each channel

  // `[values, channels]`
  [[nodiscard]] at::Tensor by_channel(const at::Tensor& result) const {
    const auto values = result.detach().to(at::kDouble);
    if (!axis || *axis >= values.dim()) return values.reshape({-1, 1});
    return values.transpose(*axis, -1).reshape({-1, values.size(*axis)});
  }

  void add(const at::Tensor& result) {
    if (result.numel() == 0) return;
    const auto values = by_channel(result);
    if (!values.isfinite().all().item<bool>())
      fail("pare.analysis.110", name, "the layer gives NaN or infinities on these batches");
    if (count == 0) origin = values.flatten()[0].item<double>();
    const auto moved = values - origin, squares = moved.square();
    count += static_cast<double>(values.numel());
    one += moved.sum().item<double>();
    two += squares.sum().item<double>();
    three += (squares * moved).sum().item<double>();
    four += squares.square().sum().item<double>();
    const auto least = values.amin(0), most = values.amax(0);
    low = low.defined() ? at::minimum(low, least) : least;
    high = high.defined() ? at::maximum(high, most) : most;
  }

  [[nodiscard]] double mean() const { return one / count; }  // from the origin
  [[nodiscard]] double variance() const { return std::max(0.0, two / count - mean() * mean()); }

  void count_far(const at::Tensor& result) {
    const auto limit = kFarOut * std::sqrt(variance());
    far_out += result.detach().to(at::kDouble).sub(origin + mean()).abs().gt(limit).sum().item<double>();
  }

  [[nodiscard]] double kurtosis() const {
    const auto m = mean(), v = variance();
    if (!(v > 0)) return 0;
    const auto fourth = four / count - 4 * m * three / count + 6 * m * m * two / count - 3 * m * m * m * m;
    return fourth / (v * v) - 3;
  }

  [[nodiscard]] ActivationStats::Layer layer() const {
    ActivationStats::Layer layer;
    layer.name = name;
    if (count == 0) return layer;
    layer.low = low.min().item<double>();
    layer.high = high.max().item<double>();
    layer.mean = origin + mean();
    layer.deviation = std::sqrt(variance());
    layer.kurtosis = kurtosis();
    layer.outliers = far_out / count;
    layer.channels = low.numel();
    const auto alive = at::logical_or(low.ne(0), high.ne(0));
    layer.dead = layer.channels - alive.sum().item<std::int64_t>();
    const auto ranges = (high - low).masked_select(alive);
    if (ranges.numel() > 0 && ranges.median().item<double>() > 0)
      layer.channel_spread = ranges.max().item<double>() / ranges.median().item<double>();
    return layer;
  }
};

std::optional<std::int64_t> channel_axis(const Graph& graph, const FusedRegion& region) {
  const auto& sizes = graph.value(region.output).type.sizes;
  const bool convolves = region.family == OpFamily::Convolution || region.family == OpFamily::TransposedConvolution;
  if (sizes.size() < 2) return std::nullopt;
  const std::size_t axis = sizes.size() >= 4 || (convolves && sizes.size() == 3) ? 1 : sizes.size() - 1;
  return sizes[axis].is_constant() ? std::optional(static_cast<std::int64_t>(axis)) : std::nullopt;
}

}  // namespace

ActivationStats::ActivationStats(const Model& described, const Batches& batches) {
  if (batches.empty()) fail("pare.analysis.106", "", "activations are described on batches, and there are none");
  const at::NoGradGuard no_grad;
  auto model = described;  // in training a run would move the statistics of batch norms, the live module's
  model.eval();
  const auto& graph = model.graph();
  std::vector<Sums> sums;
  std::unordered_map<std::size_t, std::size_t> at_value;
  for (const auto& region : match_regions(graph)) {
    if (region.output == kNoValue || !at_value.emplace(index(region.output), sums.size()).second) continue;
    sums.push_back({graph.node(region.anchor).name, channel_axis(graph, region)});
  }
  const auto sweep = [&](auto&& visit) {
    for (const auto& batch : batches)
      (void)model.run(batch, [&](ValueId value, const at::Tensor& tensor) {
        const auto found = at_value.find(index(value));
        if (found != at_value.end() && tensor.defined() && tensor.is_floating_point())
          visit(sums[found->second], tensor);
      });
  };
  sweep([](Sums& layer, const at::Tensor& result) { layer.add(result); });
  sweep([](Sums& layer, const at::Tensor& result) { layer.count_far(result); });
  for (const auto& layer : sums)
    if (layer.count > 0) layers_.push_back(layer.layer());
}

std::string ActivationStats::text() const {
  auto text = fmt::format("{:<40} {:>11} {:>11} {:>11} {:>9} {:>10} {:>9} {:>6} {:>8}\n", "layer", "low", "high",
                          "deviation", "kurtosis", "outliers", "channels", "dead", "spread");
  for (const auto& layer : layers_)
    text += fmt::format("{:<40} {:>11.4g} {:>11.4g} {:>11.4g} {:>9.2f} {:>10.2e} {:>9} {:>6} {:>8.2f}\n", layer.name,
                        layer.low, layer.high, layer.deviation, layer.kurtosis, layer.outliers, layer.channels,
                        layer.dead, layer.channel_spread);
  return text;
}

std::ostream& operator<<(std::ostream& stream, const ActivationStats& stats) { return stream << stats.text(); }

PARE_NAMESPACE_END
