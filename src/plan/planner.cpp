#include "pare/plan/planner.hpp"

#include <algorithm>
#include <cmath>

#include "pare/core/error.hpp"
#include "pare/numerics/knapsack.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// One limit as the knapsack sees it.
struct Limit {
  double value = 0;
  double (*cost)(const PlanChoices&, const PlanChoice&) = nullptr;
};

double bits_cost(const PlanChoices& layer, const PlanChoice& choice) {
  return static_cast<double>(layer.entries) * choice.weights.count;
}
double bytes_cost(const PlanChoices&, const PlanChoice& choice) { return static_cast<double>(choice.bytes); }
double latency_cost(const PlanChoices&, const PlanChoice& choice) { return choice.latency_ms; }
double macs_cost(const PlanChoices&, const PlanChoice& choice) { return choice.macs; }
// Noise may make a change look like a gain: nothing is bought with that.
double damage_cost(const PlanChoices&, const PlanChoice& choice) { return std::max(0.0, choice.damage); }

void check_positive(const std::optional<double>& limit, std::string_view what) {
  if (limit && !(*limit > 0 && std::isfinite(*limit))) fail("pare.plan.103", "", "a limit of {} {}", *limit, what);
}

std::string why(const PlanChoices& layer, const PlanChoice& chosen) {
  std::string text;
  for (const auto& other : layer.choices)
    if (other.weights < chosen.weights)
      text = fmt::format("{} bits would cost {:.4g}", other.weights.count, other.damage);
  return text;
}

}  // namespace

Planner::Planner(std::vector<PlanChoices> layers, std::uint64_t bytes, double latency_ms)
    : layers_(std::move(layers)), bytes_(bytes), latency_ms_(latency_ms) {
  if (layers_.empty()) fail("pare.plan.102", "", "there are no layers to plan");
  if (!std::isfinite(latency_ms_) || latency_ms_ < 0)
    fail("pare.plan.102", "", "{} ms of what is not planned", latency_ms_);
  for (auto& layer : layers_) {
    if (layer.choices.empty()) fail("pare.plan.102", layer.layer, "this layer has no choices");
    std::ranges::sort(layer.choices, {}, &PlanChoice::weights);
    for (const auto& choice : layer.choices)
      if (!std::isfinite(choice.damage) || !std::isfinite(choice.latency_ms) || choice.latency_ms < 0 ||
          !std::isfinite(choice.macs) || choice.macs < 0)
        fail("pare.plan.102", layer.layer, "a choice with damage {}, {} ms and {} multiply-accumulates", choice.damage,
             choice.latency_ms, choice.macs);
  }
}

std::optional<Plan> Planner::plan(const PlanLimits& limits) const {
  check_positive(limits.average_bits, "bits");
  check_positive(limits.latency_ms, "ms");
  check_positive(limits.macs, "multiply-accumulates");
  if (limits.damage && !(*limits.damage >= 0)) fail("pare.plan.103", "", "a limit of {} on the damage", *limits.damage);
  double entries = 0;
  for (const auto& layer : layers_) entries += static_cast<double>(layer.entries);
  std::vector<Limit> costs;
  if (limits.average_bits) costs.push_back({*limits.average_bits * entries, bits_cost});
  if (limits.bytes) costs.push_back({static_cast<double>(*limits.bytes) - static_cast<double>(bytes_), bytes_cost});
  if (limits.latency_ms) costs.push_back({*limits.latency_ms - latency_ms_, latency_cost});
  if (limits.macs) costs.push_back({*limits.macs, macs_cost});
  if (limits.damage) costs.push_back({*limits.damage, damage_cost});

  Knapsack knapsack;
  for (const auto& limit : costs) {
    if (limit.value < 0) return std::nullopt;
    knapsack.limits.push_back(limit.value);
  }
  for (const auto& layer : layers_) {
    auto& items = knapsack.classes.emplace_back();
    for (const auto& choice : layer.choices) {
      Knapsack::Item item{limits.damage ? bytes_cost(layer, choice) : damage_cost(layer, choice), {}};
      for (const auto& limit : costs) item.costs.push_back(limit.cost(layer, choice));
      items.push_back(std::move(item));
    }
  }
  const auto solution = knapsack.solve();
  if (!solution.feasible) return std::nullopt;
  Plan plan;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const auto& chosen = layers_[i].choices[solution.chosen[i]];
    plan.layers.push_back(
        {layers_[i].layer, chosen.weights, layers_[i].entries, chosen.damage, why(layers_[i], chosen)});
  }
  return plan;
}

std::string Planner::binding(const PlanLimits& limits) const {
  std::string text;
  const auto add = [&](const std::string& one) { text += (text.empty() ? "" : "; ") + one; };
  double entries = 0, bits = 0, latency = latency_ms_, macs = 0, damage = 0;
  auto bytes = bytes_;
  for (const auto& layer : layers_) {
    const auto least = [&](auto cost) {
      double value = cost(layer, layer.choices.front());
      for (const auto& choice : layer.choices) value = std::min(value, cost(layer, choice));
      return value;
    };
    entries += static_cast<double>(layer.entries);
    bits += least(bits_cost);
    bytes += static_cast<std::uint64_t>(least(bytes_cost));
    latency += least(latency_cost);
    macs += least(macs_cost);
    damage += least(damage_cost);
  }
  if (limits.average_bits && bits > *limits.average_bits * entries)
    add(fmt::format("at least {:.3f} bits a weight, {:.3f} allowed", bits / entries, *limits.average_bits));
  if (limits.bytes && bytes > *limits.bytes) add(fmt::format("at least {} bytes, {} allowed", bytes, *limits.bytes));
  if (limits.latency_ms && latency > *limits.latency_ms)
    add(fmt::format("at least {:.4g} ms, {:.4g} allowed", latency, *limits.latency_ms));
  if (limits.macs && macs > *limits.macs)
    add(fmt::format("at least {:.4g} multiply-accumulates, {:.4g} allowed", macs, *limits.macs));
  if (limits.damage && damage > *limits.damage)
    add(fmt::format("a damage of at least {:.4g}, {:.4g} allowed", damage, *limits.damage));
  return text;
}

std::vector<Plan> Planner::front(std::size_t count) const {
  std::uint64_t least = bytes_, most = bytes_;
  for (const auto& layer : layers_) {
    const auto [low, high] = std::ranges::minmax(layer.choices, {}, &PlanChoice::bytes);
    least += low.bytes;
    most += high.bytes;
  }
  std::vector<Plan> plans;
  for (std::size_t i = 0; i < count; ++i) {
    const auto share = count > 1 ? static_cast<double>(i) / static_cast<double>(count - 1) : 1.0;
    const auto limit = least + static_cast<std::uint64_t>(share * static_cast<double>(most - least));
    auto next = plan({.bytes = limit});
    if (next && (plans.empty() || *next != plans.back())) plans.push_back(std::move(*next));
  }
  return plans;
}

const PlanChoice& Planner::choice(std::size_t layer, Bits bits) const {
  const auto found = std::ranges::find(layers_[layer].choices, bits, &PlanChoice::weights);
  if (found == layers_[layer].choices.end())
    fail("pare.plan.104", layers_[layer].layer, "{} bits are no choice of this layer", bits.count);
  return *found;
}

std::uint64_t Planner::bytes(const Plan& plan) const {
  if (plan.layers.size() != layers_.size())
    fail("pare.plan.104", "", "the plan has {} layers, the planner {}", plan.layers.size(), layers_.size());
  auto bytes = bytes_;
  for (std::size_t i = 0; i < layers_.size(); ++i) bytes += choice(i, plan.layers[i].weights).bytes;
  return bytes;
}

double Planner::latency_ms(const Plan& plan) const {
  if (plan.layers.size() != layers_.size())
    fail("pare.plan.104", "", "the plan has {} layers, the planner {}", plan.layers.size(), layers_.size());
  double latency = latency_ms_;
  for (std::size_t i = 0; i < layers_.size(); ++i) latency += choice(i, plan.layers[i].weights).latency_ms;
  return latency;
}

PARE_NAMESPACE_END
