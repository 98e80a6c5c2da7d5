#include "calibration.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_map>

#include "graph/sampled_windows.hpp"
#include "layer_samples.hpp"
#include "learn_rounding.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/weight_axis.hpp"
#include "pare/numerics/exact_scales.hpp"
#include "range_choice.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// A value as messages call it: the layer that computes it, or the input or weight itself.
std::string name_of_value(const Graph& graph, ValueId value) {
  const auto* node = graph.producer(value);
  return node ? node->name : graph.value(value).name;
}

// Samples taken of a layer's input in one batch: enough for a stable second moment, few enough to stay cheap.
std::int64_t sample_limit(const MatrixForm& form) { return std::max<std::int64_t>(4096, 4 * form.features); }

// Windows of many channels overlap: few channels' at a time fit the cache.
void observe_moments(Gram& moments, const MatrixForm& form, const at::Tensor& input) {
  const auto limit = sample_limit(form);
  if (form.groups == 1) return moments.observe(features_of(form, input, limit));
  const SampledWindows windows(form, input, limit);
  const auto together = std::max<std::int64_t>(1, (std::int64_t{1} << 17) / (limit * form.features));
  moments.observe(form.groups, together,
                  [&](std::int64_t first, std::int64_t count) { return windows.of_groups(first, count); });
}

/// The linear layers that read a value, and samples of it.
struct LinearReaders {
  std::vector<FusedRegion> layers;
  RowSamples samples;
  Range extrema;
};

/// The taps of one sweep.
class Sweep {
 public:
  Sweep(const Model& model, const Sites& sites, const QuantizationSettings& settings)
      : model_(model),
        graph_(model.graph()),
        sites_(sites),
        exact_(settings.exact_scales),
        observers_(sites.sites.size(), settings.observer) {
    find_linear_readers(settings);
    result_.forms.resize(sites.layers.size());
    result_.moments.resize(sites.layers.size());
    const bool wanted = !learns_rounding(settings) && (settings.rounding != Rounding::Nearest || settings.correct_bias);
    for (std::size_t i = 0; wanted && i < sites.layers.size(); ++i) {
      const auto& layer = sites.layers[i];
      if (layer.arithmetic == Arithmetic::Float) continue;
      auto form = matrix_form(graph_, layer.region);
      if (!form || form->features > settings.max_features) continue;
      result_.forms[i] = std::move(form);
      readers_[index(layer.region.inputs[0])].push_back(i);
    }
    for (const auto& site : sites.sites)
      for (const auto value : site.values)
        if (graph_.value(value).kind == ValueKind::Weight) see(value, model.weight(value));
  }

  void see(ValueId value, const at::Tensor& tensor) {
    if (!tensor.defined() || tensor.numel() == 0) return;
    if (const auto site = sites_.site_of.find(index(value)); site != sites_.site_of.end()) {
      try {
        observers_[site->second].observe(tensor);
        if (const auto reader = linear_.find(index(value)); reader != linear_.end()) sample(reader->second, tensor);
      } catch (const Error& error) {
        if (error.id() != "pare.numerics.101") throw;
        fail("pare.quantize.101", name_of_value(graph_, value),
             "calibration meets a value that is NaN or infinite here; check the calibration batches and the weights");
      }
    }
    if (const auto layers = readers_.find(index(value)); layers != readers_.end()) {
      // Layers that read the same value in the same form share the work.
      const auto first = layers->second.front();
      for (const auto layer : layers->second) {
        const auto& form = *result_.forms[layer];
        if (layer != first && form.kernel.empty() && result_.forms[first]->kernel.empty()) continue;
        observe_moments(result_.moments[layer], form, tensor);
      }
    }
  }

  // Linear layers that read a sequence, a site's only value, directly: their results judge its range.
  void find_linear_readers(const QuantizationSettings& settings) {
    if (!settings.judge_ranges) return;
    for (const auto& layer : sites_.layers) {
      const auto& region = layer.region;
      if (layer.arithmetic != Arithmetic::Integer || region.family != OpFamily::Linear) continue;
      if (graph_.value(region.inputs[0]).type.rank() < 3) continue;
      const auto site = sites_.site_of.find(index(region.inputs[0]));
      if (!output_axis(graph_, region) || site == sites_.site_of.end() || sites_.sites[site->second].values.size() != 1)
        continue;
      linear_[index(region.inputs[0])].layers.push_back(region);
    }
  }

  static void sample(LinearReaders& readers, const at::Tensor& tensor) {
    const auto extrema = finite_extrema(tensor.detach());
    readers.extrema = readers.samples.empty() ? extrema : unite(readers.extrema, extrema);
    readers.samples.add(tensor);
  }

  static Range unite(Range a, Range b) { return {std::min(a.low, b.low), std::max(a.high, b.high)}; }

  Range range(std::size_t i) const {
    const auto& site = sites_.sites[i];
    const auto observed = observers_[i].range(site.grid);
    const auto readers = linear_.find(index(site.values.front()));
    if (readers == linear_.end() || readers->second.samples.empty()) return observed;
    const auto matrix = scored_channels(stacked_weights(model_, readers->second.layers));
    const auto rows = readers->second.samples.rows();
    return choose_range(rows, matrix, at::matmul(rows, matrix.t()), observed, readers->second.extrema, site.grid).range;
  }

  [[nodiscard]] QParams chosen(Range range, const IntegerGrid& grid) const {
    return exact_ ? choose_exact_qparams(range, grid) : choose_qparams(range, grid);
  }

  Calibration finish() {
    for (std::size_t i = 0; i < observers_.size(); ++i) {
      const auto& site = sites_.sites[i];
      if (observers_[i].empty())
        fail("pare.quantize.102", name_of_value(graph_, site.values.front()),
             "calibration never showed a value here; give at least one non-empty batch");
      result_.sites.push_back(chosen(range(i), site.grid));
    }
    for (const auto& [value, layers] : readers_)
      for (const auto layer : layers)
        if (result_.moments[layer].empty()) result_.moments[layer] = result_.moments[layers.front()];
    return std::move(result_);
  }

 private:
  const Model& model_;
  const Graph& graph_;
  const Sites& sites_;
  bool exact_;
  std::vector<AnyObserver> observers_;
  std::unordered_map<std::size_t, LinearReaders> linear_;              // ValueId -> its readers
  std::unordered_map<std::size_t, std::vector<std::size_t>> readers_;  // ValueId -> layers
  Calibration result_;
};

}  // namespace

Calibration calibrate(const Model& model, Context& context, const Sites& sites, const QuantizationSettings& settings) {
  const at::NoGradGuard no_grad;
  Sweep sweep(model, sites, settings);
  const auto& batches = context.calibration();
  auto task = context.progress().start("calibrate", batches.size());
  for (const auto& batch : batches) {
    (void)model.run(batch, [&](ValueId value, const at::Tensor& tensor) { sweep.see(value, tensor); });
    task.advance();
  }
  return sweep.finish();
}

PARE_NAMESPACE_END
