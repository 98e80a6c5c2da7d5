#include "smoothing_sites.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "pare/graph/weight_axis.hpp"
#include "pare/numerics/histogram_mse.hpp"
#include "pare/numerics/weight_observer.hpp"
#include "range_choice.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool is_linear_layer(const Graph& graph, const FusedRegion& region) {
  if (region.family != OpFamily::Linear || !owns_weight(graph, region)) return false;
  const auto& type = graph.value(region.inputs[0]).type;
  return output_axis(graph, region) && type.rank() >= 3 && type.dtype == c10::ScalarType::Float;
}

// What hands the value on unchanged in evaluation mode.
ValueId source_of(const Graph& graph, ValueId value) {
  for (;;) {
    const auto* node = graph.producer(value);
    if (!node || !(node->is("aten::dropout") || node->is("aten::contiguous"))) return value;
    value = node->input(0);
  }
}

bool only_linear_layers_read(const Graph& graph, ValueId value, const SmoothingSite& site) {
  return std::ranges::all_of(graph.uses(value), [&](const Use& use) {
    if (use.node == kNoNode) return false;
    const auto& user = graph.node(use.node);
    if (user.is("aten::dropout") || user.is("aten::contiguous"))
      return only_linear_layers_read(graph, user.output(), site);
    const auto reader = std::ranges::find(site.readers, use.node, &FusedRegion::anchor);
    return reader != site.readers.end() && reader->inputs[0] == value;
  });
}

bool can_divide(const Graph& graph, const Node& norm) {
  if (!norm.is("aten::layer_norm") || !graph.is_own_weight(norm.operand("weight").value())) return false;
  const auto bias = norm.operand("bias").value();
  return (bias == kNoValue || graph.is_own_weight(bias)) &&
         norm.operand("normalized_shape").integers().value_or(std::vector<std::int64_t>{}).size() == 1;
}

at::Tensor scale_of(const at::Tensor& activations, const at::Tensor& weights, double strength) {
  const auto live = (activations > 0).logical_and(weights > 0);
  const auto logs =
      at::where(live, strength * activations.log() - (1.0 - strength) * weights.log(), at::zeros_like(weights));
  return at::where(live, logs - logs.sum() / live.sum().clamp_min(1), at::zeros_like(logs)).exp();
}

// Squared error of the layers' results with both sides in 8 bits.
double rounding_error(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& scale) {
  const auto activations = rows / scale, scaled = weights * scale;
  HistogramMSE observer;
  observer.observe(activations);
  const auto grid = IntegerGrid::unsigned_affine(), weight_grid = IntegerGrid::signed_symmetric();
  const auto rounded = fake_quantize(scaled, WeightMinMax{}(scaled, weight_grid), weight_grid);
  return choose_range(activations, rounded, at::matmul(rows, weights.t()), observer.range(grid),
                      finite_extrema(activations), grid)
      .error;
}

}  // namespace

std::vector<SmoothingSite> find_smoothing_sites(const Graph& graph) {
  std::vector<SmoothingSite> sites;
  for (const auto& region : match_regions(graph)) {
    if (!is_linear_layer(graph, region)) continue;
    const auto value = source_of(graph, region.inputs[0]);
    if (graph.value(value).kind != ValueKind::Result) continue;
    auto site = std::ranges::find(sites, value, &SmoothingSite::value);
    if (site == sites.end()) site = sites.insert(site, SmoothingSite{value, kNoNode, {}, {}, {}});
    site->readers.push_back(region);
  }
  for (auto& site : sites) {
    const auto* producer = graph.producer(site.value);
    if (can_divide(graph, *producer) && only_linear_layers_read(graph, site.value, site)) site.norm = producer->id;
  }
  return sites;
}

Smoothing choose_smoothing(const Model& model, const SmoothingSite& site, const std::vector<double>& strengths) {
  const auto all = stacked_weights(model, site.readers);
  const auto weights = scored_channels(all), peak = all.abs().amax(0).to(at::kDouble);
  const auto rows = site.samples.rows();
  const auto plain = rounding_error(rows, weights, at::ones({rows.size(1)}, rows.options()));
  Smoothing best{at::ones_like(peak), 0.0, std::numeric_limits<double>::infinity()};
  for (const auto strength : strengths) {
    const auto scale = scale_of(site.peak, peak, strength);
    const auto error = rounding_error(rows, weights, scale.to(at::kFloat));
    if (error < best.error) best = {scale, strength, error};
  }
  best.error = plain > 0 ? best.error / plain : 1.0;
  return best;
}

PARE_NAMESPACE_END
