#include "pare/plan/plan_latency.hpp"

#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <set>
#include <utility>

#include "analysis/step_measurement.hpp"
#include "pare/analysis/layer_exchange.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// What runs alike: fewer bits are unpacked to 8.
Bits running_as(Bits bits) { return bits.count <= 8 ? Bits{8} : bits; }

double rounded(double ms) { return std::round(ms * 1e6) * 1e-6; }

}  // namespace

PlanLatency::PlanLatency(Plan layers, const std::vector<Bits>& precisions, PlanLatencyOptions options)
    : options_(std::move(options)), layers_(std::move(layers)), table_(options_.cache, options_.compile.threads) {
  if (!options_.realize || options_.inputs.empty())
    fail("pare.plan.106", "", "latencies are found by running models: give `realize` and `inputs`");
  if (layers_.layers.empty() || precisions.empty())
    fail("pare.plan.102", "", "{} layers and {} precisions to find latencies of", layers_.layers.size(),
         precisions.size());
  std::set<Bits> distinct;
  for (const auto bits : precisions) distinct.insert(running_as(bits));
  const auto count = layers_.layers.size();
  std::vector<std::vector<Bits>> models;
  for (const auto bits : distinct) models.emplace_back(count, bits);
  for (const auto one : distinct)
    for (const auto other : distinct)
      // One by one, and two by two from either layer of a pair: each layer in front of and behind each border.
      for (const auto& [period, shift] : {std::pair<std::size_t, std::size_t>{1, 0}, {2, 0}, {2, 1}}) {
        if (one == other) continue;
        auto& alternating = models.emplace_back();
        for (std::size_t i = 0; i < count; ++i) alternating.push_back((i + shift) / period % 2 == 0 ? one : other);
      }
  measure(models);
  for (const auto bits : distinct) {
    auto plan = layers_;
    for (auto& layer : plan.layers) layer.weights = bits;
    const auto model = options_.realize(plan);
    uniform_.emplace_back(
        bits, shares(plan, LayerLatency::predicted(model, options_.inputs, table_, compile_options(plan)), model));
  }
}

CompileOptions PlanLatency::compile_options(const Plan& plan) const {
  auto compile = options_.compile;
  for (const auto& name : plan.bf16_layers()) compile.node_precision[name] = c10::ScalarType::BFloat16;
  return compile;
}

void PlanLatency::measure(const std::vector<std::vector<Bits>>& models) {
  std::list<StepMeasurement> unknown;
  auto known = table_;
  for (const auto& bits : models) {
    auto plan = layers_;
    for (std::size_t i = 0; i < bits.size(); ++i) plan.layers[i].weights = bits[i];
    auto compile = compile_options(plan);
    compile.threads = table_.threads();
    StepMeasurement steps(options_.realize(plan), options_.inputs, std::move(compile));
    if (steps.is_known(known)) continue;
    steps.expect(known);
    unknown.push_back(std::move(steps));
  }
  StepMeasurement::run_in_turns(unknown, options_.seconds);
  for (const auto& steps : unknown) steps.record(table_);
  if (!unknown.empty()) table_.save();
}

// What is charged to no layer of the plan falls to the first.
std::vector<double> PlanLatency::shares(const Plan& plan, const LayerLatency& latency, const Model& model) const {
  std::map<std::string, std::size_t> layer_of;  // weight -> layer
  const LayerExchange exchange(model);
  for (const auto& layer : exchange.layers())
    for (std::size_t i = 0; i < plan.layers.size(); ++i)
      if (plan.layers[i].name == layer.name) layer_of[layer.weight] = i;
  std::vector<double> result(plan.layers.size(), 0.0);
  for (const auto& row : latency.rows()) {
    const auto found = layer_of.find(row.layer);
    result[found == layer_of.end() ? 0 : found->second] += row.ms;
  }
  return result;
}

LayerLatency PlanLatency::steps(const Plan& plan) const {
  return LayerLatency::predicted(options_.realize(plan), options_.inputs, table_, compile_options(plan));
}

double PlanLatency::layer_ms(const std::string& layer, Bits bits) const {
  const auto at = std::ranges::find(layers_.layers, layer, &Plan::Layer::name);
  const auto found = std::ranges::find(uniform_, running_as(bits), [](const auto& one) { return one.first; });
  if (at == layers_.layers.end() || found == uniform_.end())
    fail("pare.plan.104", layer, "no latency was measured for this layer at {} bits", bits.count);
  return found->second[static_cast<std::size_t>(at - layers_.layers.begin())];
}

double PlanLatency::predict(Plan& plan) const {
  if (!std::ranges::equal(plan.layers, layers_.layers, {}, &Plan::Layer::name, &Plan::Layer::name))
    fail("pare.plan.104", "", "a plan of other layers than those that were timed");
  const auto model = options_.realize(plan);
  const auto latency = LayerLatency::predicted(model, options_.inputs, table_, compile_options(plan));
  const auto each = shares(plan, latency, model);
  for (std::size_t i = 0; i < each.size(); ++i) plan.layers[i].latency_ms = rounded(each[i]);
  return plan.latency_ms();
}

PARE_NAMESPACE_END
