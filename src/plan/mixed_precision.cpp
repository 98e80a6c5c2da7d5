#include "pare/plan/mixed_precision.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/seconds_since.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// One search.
class Search {
 public:
  Search(std::vector<Precision> models, const MixedPrecisionOptions& options)
      : models_(std::move(models)), options_(options) {
    if (models_.size() < 2) fail("pare.plan.105", "", "{} models to choose layers from: two at least", models_.size());
    if (options_.refinements < 0) fail("pare.plan.105", "", "{} refinements", options_.refinements);
    std::ranges::sort(models_, std::greater<>{}, &Precision::weights);
    const LayerExchange exchange(reference());
    layers_ = exchange.layers();
    for (const auto& model : models_) {
      variants_.push_back({fmt::format("int{}", model.weights.count), model.model});
      taken_.push_back(exchange.taken_from(variants_.back()));
    }
  }

  MixedPrecisionResult run() {
    const auto start = Clock::now();
    replay_.emplace(reference(), options_.batches);
    auto expected = replay_->outputs();
    const auto once = seconds_since(start);
    loss_ = options_.loss ? options_.loss : divergence_from(expected);
    base_ = loss_(expected);

    const std::vector<Variant> others(variants_.begin() + 1, variants_.end());
    auto sweep = sweep_options(options_.method);
    result_.sensitivity.emplace(reference(), others, sweep);
    std::vector<std::vector<double>> damage;  // of each layer, each model
    for (const auto& layer : result_.sensitivity->layers()) {
      damage.push_back({0.0});
      damage.back().insert(damage.back().end(), layer.damage.begin(), layer.damage.end());
    }
    const Planner planner(choices(damage), fixed_bytes());
    for (std::size_t m = 0; m < models_.size(); ++m)
      evaluate("uniform " + variants_[m].name, uniform(planner, m), planner);
    plan(planner);
    for (std::size_t i = 0; i + 1 <= options_.front; ++i) {
      const auto plans = planner.front(options_.front + 2);
      if (i + 1 < plans.size()) evaluate(fmt::format("front {}", i + 1), plans[i + 1], planner);
    }
    result_.evaluations = seconds_since(start) / std::max(once, 1e-9);
    return std::move(result_);
  }

 private:
  [[nodiscard]] const Model& reference() const { return models_.front().model; }

  [[nodiscard]] SensitivityOptions sweep_options(SensitivityMethod method) const {
    SensitivityOptions sweep;
    sweep.batches = options_.batches;
    sweep.method = method;
    sweep.loss = loss_;
    sweep.seed = options_.seed;
    sweep.progress = options_.progress;
    sweep.cancelled = options_.cancelled;
    return sweep;
  }

  [[nodiscard]] std::vector<PlanChoices> choices(const std::vector<std::vector<double>>& damage) const {
    std::vector<WeightStorage> stored;
    for (const auto& model : models_) stored.emplace_back(model.model);
    std::vector<PlanChoices> result;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      PlanChoices layer{layers_[i].name, layers_[i].entries, {}};
      for (std::size_t m = 0; m < models_.size(); ++m)
        layer.choices.push_back({models_[m].weights, damage[i][m], stored[m].bytes(layers_[i].weight), 0});
      result.push_back(std::move(layer));
    }
    return result;
  }

  [[nodiscard]] std::uint64_t fixed_bytes() const {
    const WeightStorage stored(reference());
    auto bytes = stored.bytes();
    for (const auto& layer : layers_) bytes -= stored.bytes(layer.weight);
    return bytes;
  }

  [[nodiscard]] Plan uniform(const Planner& planner, std::size_t model) const {
    Plan plan;
    for (const auto& layer : planner.layers())
      for (const auto& choice : layer.choices)
        if (choice.weights == models_[model].weights)
          plan.layers.push_back({layer.layer, choice.weights, layer.entries, choice.damage, {}});
    return plan;
  }

  [[nodiscard]] Replacements replaced(const Plan& plan) const {
    Replacements all;
    for (std::size_t i = 0; i < layers_.size(); ++i)
      for (std::size_t m = 0; m < models_.size(); ++m)
        if (models_[m].weights == plan.layers[i].weights)
          for (const auto& [value, tensor] : taken_[m][i]) all[value] = tensor;
    return all;
  }

  const PlanPoint& evaluate(std::string name, const Plan& plan, const Planner& planner) {
    const auto known = std::ranges::find_if(result_.points, [&](const PlanPoint& point) {
      return std::ranges::equal(point.plan.layers, plan.layers, {}, &Plan::Layer::weights, &Plan::Layer::weights);
    });
    if (known != result_.points.end()) return *known;
    const auto measured = loss_(replay_->outputs(replaced(plan)));
    result_.points.push_back({std::move(name), plan, base_ + plan.damage(), measured, planner.bytes(plan)});
    return result_.points.back();
  }

  [[nodiscard]] bool keeps_limits(const PlanPoint& point) const {
    const auto& limits = options_.limits;
    return (!limits.average_bits || point.plan.average_bits() <= *limits.average_bits * (1 + 1e-12)) &&
           (!limits.bytes || point.bytes <= *limits.bytes) && (!limits.damage || point.loss - base_ <= *limits.damage);
  }

  // Whether `a` is the better of two that keep the limits: with a limit on the damage the smaller one.
  [[nodiscard]] bool better(const PlanPoint& a, const PlanPoint& b) const {
    return options_.limits.damage ? a.bytes < b.bytes : a.loss < b.loss;
  }

  void plan(const Planner& planner) {
    auto first = planner.plan(options_.limits);
    if (!first) {
      result_.shortfall = planner.binding(options_.limits);
      result_.plan = uniform(planner, models_.size() - 1);
      choose(result_.points.size());
      return;
    }
    auto at = evaluate("planned", *first, planner);
    for (int round = 1; round <= options_.refinements; ++round) {
      const auto next = around(at.plan).plan(options_.limits);
      if (!next) break;
      const auto count = result_.points.size();
      const auto point = evaluate(fmt::format("refined {}", round), *next, planner);
      if (result_.points.size() == count || !better(point, at)) break;
      at = point;
    }
    choose(result_.points.size());
  }

  // The damages as they are around a plan.
  [[nodiscard]] Planner around(const Plan& plan) const {
    auto sweep = sweep_options(SensitivityMethod::Exact);
    sweep.around = replaced(plan);
    const Sensitivity here(reference(), variants_, sweep);
    std::vector<std::vector<double>> damage;
    for (std::size_t i = 0; i < layers_.size(); ++i) damage.push_back(here.layers()[i].damage);
    return Planner(choices(damage), fixed_bytes());
  }

  void choose(std::size_t count) {
    std::optional<std::size_t> best;
    for (std::size_t i = 0; i < count; ++i)
      if (keeps_limits(result_.points[i]) && (!best || better(result_.points[i], result_.points[*best]))) best = i;
    if (!best) {
      // Nothing keeps them: the smallest.
      const auto smallest = std::ranges::min_element(result_.points, {}, &PlanPoint::bytes);
      best = static_cast<std::size_t>(smallest - result_.points.begin());
      if (result_.shortfall.empty())
        result_.shortfall = fmt::format(
            "no plan that was evaluated keeps the limits; the smallest has {} bytes and a "
            "damage of {:.4g}",
            smallest->bytes, smallest->loss - base_);
    }
    result_.chosen_point = *best;
    result_.plan = result_.points[*best].plan;
  }

  std::vector<Precision> models_;
  const MixedPrecisionOptions& options_;
  std::vector<LayerExchange::Layer> layers_;
  std::vector<Variant> variants_;
  std::vector<std::vector<Replacements>> taken_;  // of each model, each layer
  std::optional<PrefixReplay> replay_;
  OutputLoss loss_;
  double base_ = 0;
  MixedPrecisionResult result_;
};

}  // namespace

MixedPrecisionResult mixed_precision(std::vector<Precision> models, const MixedPrecisionOptions& options) {
  const at::NoGradGuard no_grad;
  return Search(std::move(models), options).run();
}

PARE_NAMESPACE_END
