#include "pare/analysis/sensitivity.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <ostream>

#include "core/seconds_since.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool holds_already(const Replacements& change, const Replacements& around) {
  return std::ranges::all_of(change, [&](const auto& entry) {
    const auto found = around.find(entry.first);
    return found != around.end() && at::equal(found->second, entry.second);
  });
}

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return values[i]; });
  std::vector<double> result(values.size());
  for (std::size_t i = 0; i < order.size();) {
    auto end = i;
    while (end < order.size() && values[order[end]] == values[order[i]]) ++end;
    for (auto k = i; k < end; ++k) result[order[k]] = 0.5 * static_cast<double>(i + end - 1);
    i = end;
  }
  return result;
}

// The share of a run's multiply-accumulates that lies behind each position of the node order.
std::vector<double> work_behind(const Model& model) {
  const auto& graph = model.graph();
  const auto dims = graph.example_dims();
  const Shapes shapes = [&](ValueId id) { return graph.value(id).type.sizes_at(dims); };
  const auto& nodes = graph.nodes();
  std::vector<double> behind(nodes.size() + 1, 0.0);
  for (auto i = nodes.size(); i-- > 0;) {
    const auto& node = graph.node(nodes[i]);
    const bool runs = node.condition != Condition::Training && !node.outputs.empty();
    behind[i] = behind[i + 1] + (runs ? static_cast<double>(macs_of(graph, node, shapes)) : 0.0);
  }
  const auto whole = std::max(behind.front(), 1.0);
  for (auto& one : behind) one /= whole;
  return behind;
}

}  // namespace

Sensitivity::Sensitivity(const Model& reference, const std::vector<Variant>& variants,
                         const SensitivityOptions& options) {
  if (options.batches.empty()) fail("pare.analysis.106", "", "sensitivity is measured on batches, and there are none");
  if (variants.empty()) fail("pare.analysis.106", "", "sensitivity to what? There are no variants");
  if (options.draws < 1) fail("pare.analysis.106", "", "{} draws", options.draws);
  for (const auto& variant : variants) variants_.push_back(variant.name);
  const at::NoGradGuard no_grad;
  auto still = reference;  // in training a run would move the statistics of batch norms, the live module's
  still.eval();
  const LayerExchange exchange(still);
  Changes changes;
  for (const auto& variant : variants) changes.push_back(exchange.taken_from(variant));
  for (const auto& layer : exchange.layers())
    layers_.push_back({layer.name, layer.weight, layer.entries, std::vector<double>(variants.size())});
  if (options.method == SensitivityMethod::Exact)
    exact(still, changes, options);
  else
    fisher(still, exchange, changes, options);
}

void Sensitivity::exact(const Model& reference, const Changes& changes, const SensitivityOptions& options) {
  PrefixReplay replay(reference, options.batches, options.around);
  const auto start = Clock::now();
  double once = 0;  // the run that all candidates branch off from
  const auto loss = options.loss ? options.loss : divergence_from(replay.outputs());
  work_ = options.loss ? 1 : 2;
  std::vector<std::pair<std::size_t, std::size_t>> order;  // position of the first reader, layer
  std::map<NodeId, std::size_t> position;
  for (const auto id : reference.graph().nodes()) position.emplace(id, position.size());
  for (std::size_t i = 0; i < layers_.size(); ++i)
    if (const auto first = replay.first_reader(changes.front()[i]); first != kNoNode)
      order.emplace_back(position.at(first), i);
  std::ranges::sort(order);
  const auto behind = work_behind(reference);
  std::vector<double*> measured;
  const auto check = [&](double value, std::string_view layer, const std::string& variant) {
    if (!std::isfinite(value))
      fail("pare.analysis.107", layer, "the loss is {} with this layer from the variant {}", value, variant);
  };
  auto task = options.progress.start("sensitivity", order.size());
  for (const auto& [at, i] : order) {
    if (options.cancelled && options.cancelled()) fail("pare.analysis.108", "", "the sweep was cancelled");
    auto before = Clock::now();
    replay.advance(reference.graph().nodes()[at]);
    once += seconds_since(before);
    for (std::size_t v = 0; v < variants_.size(); ++v) {
      if (holds_already(changes[v][i], options.around)) continue;
      work_ += behind[at];
      layers_[i].damage[v] = loss(replay.outputs(changes[v][i]));
      check(layers_[i].damage[v], layers_[i].name, variants_[v]);
      measured.push_back(&layers_[i].damage[v]);
    }
    task.advance();
  }
  // The rest of that run gives what all are compared with.
  const auto before = Clock::now();
  const auto expected = replay.outputs();
  once += seconds_since(before);
  const auto base = loss(expected);
  check(base, "", "itself");
  for (auto* damage : measured) *damage -= base;
  evaluations_ = seconds_since(start) / std::max(once, 1e-9);
}

const Sensitivity::Layer& Sensitivity::layer(std::string_view name) const {
  const auto found = std::ranges::find(layers_, name, &Layer::name);
  if (found == layers_.end()) fail("pare.analysis.109", name, "sensitivity was measured for no layer of this name");
  return *found;
}

double Sensitivity::interaction(std::size_t layer, std::size_t variant, std::size_t other,
                                std::size_t other_variant) const {
  if (interactions_.empty() || layer == other) return 0;
  const auto count = variants_.size() * layers_.size();
  return interactions_.at((variant * layers_.size() + layer) * count + other_variant * layers_.size() + other);
}

std::string Sensitivity::text() const {
  auto text = fmt::format("{:<40} {:>10}", "layer", "weights");
  for (const auto& variant : variants_) text += fmt::format(" {:>12}", variant);
  text += '\n';
  std::vector<const Layer*> order;
  for (const auto& layer : layers_) order.push_back(&layer);
  const auto density = [](const Layer* layer) {
    return *std::ranges::max_element(layer->damage) / static_cast<double>(std::max<std::int64_t>(layer->weights, 1));
  };
  std::ranges::stable_sort(order, std::greater<>{}, density);
  for (const auto* layer : order) {
    text += fmt::format("{:<40} {:>10}", layer->name, layer->weights);
    for (const auto damage : layer->damage) text += fmt::format(" {:>12.4g}", damage);
    text += '\n';
  }
  return text;
}

double rank_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size() || a.size() < 2)
    fail("pare.analysis.105", "", "no rank correlation of {} numbers with {}", a.size(), b.size());
  for (const auto* series : {&a, &b})
    if (std::ranges::any_of(*series, [](double value) { return std::isnan(value); }))
      fail("pare.analysis.105", "", "NaN has no rank");
  const auto x = ranks(a), y = ranks(b);
  const auto mean = 0.5 * static_cast<double>(a.size() - 1);
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0.0;
}

std::ostream& operator<<(std::ostream& stream, const Sensitivity& sensitivity) { return stream << sensitivity.text(); }

PARE_NAMESPACE_END
