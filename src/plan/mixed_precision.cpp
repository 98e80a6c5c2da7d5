#include "pare/plan/mixed_precision.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/seconds_since.hpp"
#include "pare/analysis/float_switches.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool is_float(Bits bits) { return bits.count > 8; }

std::string name_of_precision(Bits bits) {
  return bits.count == 32 ? "float32" : bits.count == 16 ? "bf16" : fmt::format("int{}", bits.count);
}

// With weights as bf16 has them.
Model in_bf16(Model model) {
  std::vector<std::pair<std::string, at::Tensor>> weights;
  for (const auto& [path, weight] : model.weights())
    if (weight.tensor.scalar_type() == at::kFloat)
      weights.emplace_back(path, weight.tensor.detach().to(at::kBFloat16).to(at::kFloat));
  for (auto& [path, tensor] : weights) model.set_weight(path, std::move(tensor));
  return model;
}

/// One search.
class Search {
 public:
  Search(std::vector<Precision> models, const MixedPrecisionOptions& options)
      : models_(std::move(models)), options_(options) {
    if (models_.size() < 2) fail("pare.plan.105", "", "{} models to choose layers from: two at least", models_.size());
    if (options_.refinements < 0) fail("pare.plan.105", "", "{} refinements", options_.refinements);
    if (options_.limits.latency_ms && !options_.latency)
      fail("pare.plan.106", "", "a limit on the latency, and no `latency` to find it with");
    check_limits();
    // Layers are taken into the finest integer model; the order of the others does not matter.
    std::ranges::sort(models_, std::greater<>{}, &Precision::weights);
    check_precisions();
    const auto integers = std::ranges::partition_point(models_, is_float, &Precision::weights);
    if (integers == models_.end()) fail("pare.plan.105", "", "no model of 2 to 8 bits among those to choose from");
    const bool has_float = integers != models_.begin();
    std::rotate(models_.begin(), integers, models_.end());
    reference_ = has_float ? with_float_switches(models_.front().model) : models_.front().model;
    const LayerExchange exchange(reference_);
    layers_ = exchange.layers();
    for (const auto& model : models_) {
      variants_.push_back(
          {name_of_precision(model.weights), model.weights.count == 16 ? in_bf16(model.model) : model.model});
      taken_.push_back(exchange.taken_from(variants_.back()));
    }
  }

  MixedPrecisionResult run() {
    if (options_.latency) time_layers();
    const auto start = Clock::now();
    replay_.emplace(reference(), options_.batches);
    auto expected = replay_->outputs();
    const auto once = seconds_since(start);
    loss_ = options_.loss ? options_.loss : divergence_from(expected);
    base_ = loss_(expected);
    check_loss(base_, variants_.front().name);

    const std::vector<Variant> others(variants_.begin() + 1, variants_.end());
    auto sweep = sweep_options(options_.method);
    result_.sensitivity.emplace(reference(), others, sweep);
    std::vector<std::vector<double>> damage;  // of each layer, each model
    for (const auto& layer : result_.sensitivity->layers()) {
      damage.push_back({0.0});
      damage.back().insert(damage.back().end(), layer.damage.begin(), layer.damage.end());
    }
    offset_ = rebase(damage);
    const Planner planner(choices(damage), fixed_bytes());
    for (std::size_t m = 0; m < models_.size(); ++m)
      evaluate("uniform " + variants_[m].name, uniform(planner, m), planner);
    plan(planner);
    if (options_.front > 0) {
      const auto plans = planner.front(options_.front + 2);
      for (std::size_t i = 1; i + 1 < plans.size(); ++i) evaluate(fmt::format("front {}", i), plans[i], planner);
    }
    result_.evaluations = seconds_since(start) / std::max(once, 1e-9);
    return std::move(result_);
  }

 private:
  [[nodiscard]] const Model& reference() const { return reference_; }

  void check_limits() const {
    const auto& limits = options_.limits;
    if (limits.macs) fail("pare.plan.105", "", "a limit on multiply-accumulates, which no number of bits changes");
    if (limits.damage && !(*limits.damage >= 0))
      fail("pare.plan.103", "", "a limit of {} on the damage", *limits.damage);
  }

  // Sorted by bits.
  void check_precisions() const {
    for (std::size_t m = 0; m < models_.size(); ++m) {
      const auto bits = models_[m].weights.count;
      if ((bits < 2 || bits > 8) && bits != 16 && bits != 32)
        fail("pare.plan.105", "", "a model of {} bits: 2 to 8 are possible, 16 for bf16 and 32 for float", bits);
      if (m > 0 && bits == models_[m - 1].weights.count) fail("pare.plan.105", "", "two models of {} bits", bits);
    }
  }

  [[nodiscard]] SensitivityOptions sweep_options(SensitivityMethod method) const {
    SensitivityOptions sweep;
    sweep.batches = options_.batches;
    sweep.method = method;
    sweep.loss = loss_;
    sweep.answers = options_.answers;
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
        layer.choices.push_back({models_[m].weights, damage[i][m], bytes_of(stored[m], models_[m].weights, layers_[i]),
                                 latency_ ? latency_->layer_ms(layers_[i].name, models_[m].weights) : 0.0});
      result.push_back(std::move(layer));
    }
    return result;
  }

  static std::uint64_t bytes_of(const WeightStorage& stored, Bits bits, const LayerExchange::Layer& layer) {
    return stored.bytes(layer.weight) / (bits.count == 16 ? 2 : 1) + stored.grid_bytes(layer.weight);
  }

  // Where layers may be float, damages count from there: what integers cost is real, not noise that looks like a gain.
  // @return what is taken off in all
  [[nodiscard]] double rebase(std::vector<std::vector<double>>& damage) const {
    double offset = 0;
    for (std::size_t m = 0; m < models_.size(); ++m) {
      if (!is_float(models_[m].weights)) continue;
      for (auto& layer : damage) {
        const auto least = *std::ranges::min_element(layer);
        offset += least;
        for (auto& one : layer) one -= least;
      }
      break;
    }
    return offset;
  }

  [[nodiscard]] std::uint64_t fixed_bytes() const {
    const WeightStorage stored(models_.front().model);
    auto bytes = stored.bytes();
    for (const auto& layer : layers_) bytes -= stored.bytes(layer.weight) + stored.grid_bytes(layer.weight);
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

  void time_layers() {
    Plan all;
    std::vector<Bits> precisions;
    for (const auto& layer : layers_) all.layers.push_back({layer.name, models_.front().weights, layer.entries});
    for (const auto& model : models_) precisions.push_back(model.weights);
    latency_.emplace(std::move(all), precisions, *options_.latency);
  }

  // The best plan within the limits. What conversions between layers take is no sum over layers: while the whole plan
  // takes too long, the layers get less.
  [[nodiscard]] std::optional<Plan> within_limits(const Planner& planner) const {
    auto limits = options_.limits;
    if (limits.damage) limits.damage = std::max(0.0, *limits.damage - offset_);
    auto found = planner.plan(limits);
    constexpr int kRounds = 8;
    for (int round = 0; found && limits.latency_ms && round < kRounds; ++round) {
      const auto predicted = latency_->predict(*found);
      if (predicted <= *options_.limits.latency_ms) return found;
      *limits.latency_ms *= std::min(0.99, *options_.limits.latency_ms / predicted);
      found = planner.plan(limits);
    }
    return found;
  }

  const PlanPoint& evaluate(std::string name, Plan plan, const Planner& planner) {
    const auto known = std::ranges::find_if(result_.points, [&](const PlanPoint& point) {
      return std::ranges::equal(point.plan.layers, plan.layers, {}, &Plan::Layer::weights, &Plan::Layer::weights);
    });
    if (known != result_.points.end()) return *known;
    const auto measured = loss_(replay_->outputs(replaced(plan)));
    check_loss(measured, name);
    const auto ms = latency_ ? latency_->predict(plan) : 0.0;
    const auto predicted = base_ + offset_ + plan.damage();
    const auto bytes = planner.bytes(plan);
    result_.points.push_back({std::move(name), std::move(plan), predicted, measured, bytes, ms});
    return result_.points.back();
  }

  static void check_loss(double loss, const std::string& plan) {
    if (!std::isfinite(loss)) fail("pare.analysis.107", plan, "the loss of this plan is {}", loss);
  }

  [[nodiscard]] bool keeps_limits(const PlanPoint& point) const {
    const auto& damage = options_.limits.damage;
    return point.excess(options_.limits) <= 1 && (!damage || point.loss - base_ <= *damage);
  }

  // Whether `a` is the better of two that keep the limits: with a limit on the damage the smaller one.
  [[nodiscard]] bool better(const PlanPoint& a, const PlanPoint& b) const {
    return options_.limits.damage ? a.bytes < b.bytes : a.loss < b.loss;
  }

  void plan(const Planner& planner) {
    auto first = within_limits(planner);
    if (!first) {
      result_.shortfall = planner.binding(options_.limits);
      if (result_.shortfall.empty())
        result_.shortfall = options_.limits.latency_ms
                                ? fmt::format("no plan of at most {:.4g} ms was found", *options_.limits.latency_ms)
                                : "each limit can be kept alone, but no plan keeps all of them";
      choose(result_.points.size());
      return;
    }
    auto at = evaluate("planned", *first, planner);
    for (int round = 1; round <= options_.refinements; ++round) {
      const auto next = within_limits(around(at.plan));
      if (!next) break;
      const auto count = result_.points.size();
      const auto point = evaluate(fmt::format("refined {}", round), *next, planner);
      if (result_.points.size() == count || !better(point, at)) break;
      at = point;
    }
    choose(result_.points.size());
  }

  // The damages as they are around a plan.
  [[nodiscard]] Planner around(const Plan& plan) {
    auto sweep = sweep_options(SensitivityMethod::Exact);
    sweep.around = replaced(plan);
    const Sensitivity here(reference(), variants_, sweep);
    std::vector<std::vector<double>> damage;
    for (std::size_t i = 0; i < layers_.size(); ++i) damage.push_back(here.layers()[i].damage);
    offset_ = rebase(damage);
    return Planner(choices(damage), fixed_bytes());
  }

  void choose(std::size_t count) {
    std::optional<std::size_t> best;
    for (std::size_t i = 0; i < count; ++i)
      if (keeps_limits(result_.points[i]) && (!best || better(result_.points[i], result_.points[*best]))) best = i;
    if (!best) {
      const auto& points = result_.points;
      const auto nearest =
          std::ranges::min_element(points, {}, [&](const PlanPoint& point) { return point.excess(options_.limits); });
      best = static_cast<std::size_t>(nearest - points.begin());
      if (result_.shortfall.empty()) result_.shortfall = nearest->shortfall(options_.limits);
      if (result_.shortfall.empty())
        result_.shortfall = fmt::format(
            "no plan that was evaluated keeps the limits; the nearest has a damage of {:.4g}", nearest->loss - base_);
    } else {
      result_.shortfall.clear();
    }
    result_.chosen_point = *best;
    result_.plan = result_.points[*best].plan;
  }

  std::vector<Precision> models_;  // the finest integers first
  Model reference_;
  const MixedPrecisionOptions& options_;
  std::vector<LayerExchange::Layer> layers_;
  std::vector<Variant> variants_;
  std::vector<std::vector<Replacements>> taken_;  // of each model, each layer
  std::optional<PrefixReplay> replay_;
  std::optional<PlanLatency> latency_;
  OutputLoss loss_;
  double base_ = 0, offset_ = 0;
  MixedPrecisionResult result_;
};

}  // namespace

MixedPrecisionResult mixed_precision(std::vector<Precision> models, const MixedPrecisionOptions& options) {
  const at::NoGradGuard no_grad;
  return Search(std::move(models), options).run();
}

PARE_NAMESPACE_END
