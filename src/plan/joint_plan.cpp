#include "pare/plan/joint_plan.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/seconds_since.hpp"
#include "joint_latency.hpp"
#include "joint_size.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/core/error.hpp"
#include "pare/numerics/knapsack.hpp"
#include "pruned_groups.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// One search.
class JointSearch {
 public:
  JointSearch(const Model& model, std::vector<Precision> quantized, std::vector<PrunedModel> pruned,
              const JointPlanOptions& options)
      : model_(model), quantized_(std::move(quantized)), pruned_(std::move(pruned)), options_(options) {
    if (quantized_.empty() || pruned_.empty())
      fail("pare.plan.105", "", "{} quantized and {} pruned models to choose from", quantized_.size(), pruned_.size());
    if (options_.batches.empty()) fail("pare.analysis.106", "", "plans are proved on batches, and there are none");
    if (!options_.realize) fail("pare.plan.106", "", "plans are proved by making them: give `realize`");
    if (options_.limits.average_bits) fail("pare.plan.105", "", "a limit on bits: a joint plan keeps `bytes`");
    for (const auto& limit : {options_.limits.macs, options_.limits.latency_ms, options_.limits.damage})
      if (limit && !(*limit >= 0)) fail("pare.plan.103", "", "a limit of {}", *limit);
    if (options_.limits.latency_ms && options_.inputs.empty())
      fail("pare.plan.106", "", "a limit on the latency, and no `inputs` to run plans on");
    std::ranges::sort(quantized_, std::greater<>{}, &Precision::weights);
    std::ranges::sort(pruned_, {}, &PrunedModel::ratio);
    check_candidates();
    model_.eval();
  }

  JointPlanResult run() {
    const auto start = Clock::now();
    PrefixReplay replay(model_, options_.batches);
    auto expected = replay.outputs();
    const auto once = seconds_since(start);
    loss_ = options_.loss ? options_.loss : divergence_from(expected);
    const auto base = loss_(expected);
    add_layers();
    add_groups(replay, base);
    size_.emplace(model_, quantized_.front().model, classes_);
    if (!options_.inputs.empty()) latency_.emplace(*size_, options_.inputs, options_.compile, options_.seconds);
    evaluate_baselines();
    correct_by_baselines();
    search();
    choose();
    result_.evaluations = seconds_since(start) / std::max(once, 1e-9);
    return std::move(result_);
  }

 private:
  // Sorted by bits and ratios.
  void check_candidates() const {
    for (std::size_t m = 0; m < quantized_.size(); ++m) {
      const auto bits = quantized_[m].weights.count;
      if (bits < 2 || bits > 8 || (m > 0 && bits == quantized_[m - 1].weights.count))
        fail("pare.plan.105", "", "a quantized model of {} bits: 2 to 8 are possible, one model of each", bits);
    }
    for (std::size_t r = 0; r < pruned_.size(); ++r) {
      const auto ratio = pruned_[r].ratio.fraction;
      if (!(ratio > 0 && ratio < 1) || (r > 0 && ratio == pruned_[r - 1].ratio.fraction))
        fail("pare.plan.105", "", "a model pruned by {}: shares between 0 and 1 are possible, one model of each",
             ratio);
    }
  }

  void add_layers() {
    std::vector<Variant> variants;
    for (const auto& model : quantized_) variants.push_back({fmt::format("int{}", model.weights.count), model.model});
    std::optional<Sensitivity> sensitivity;
    if (variants.size() > 1) {
      SensitivityOptions sweep;
      sweep.batches = options_.batches;
      sweep.method = options_.method;
      sweep.loss = loss_;
      sweep.seed = options_.seed;
      sweep.progress = options_.progress;
      sweep.cancelled = options_.cancelled;
      sensitivity.emplace(variants.front().model, std::vector<Variant>(variants.begin() + 1, variants.end()), sweep);
    }
    const LayerExchange exchange(quantized_.front().model);
    const WeightStorage stored(quantized_.front().model);
    for (std::size_t i = 0; i < exchange.layers().size(); ++i) {
      const auto& layer = exchange.layers()[i];
      if (stored.bits(layer.weight) > 8) continue;  // what the quantizer leaves float has no bits to choose
      JointClass one{layer.name, layer.weight, layer.entries, {{quantized_.front().weights}}};
      for (std::size_t m = 1; m < quantized_.size(); ++m)
        one.choices.push_back({quantized_[m].weights, {0}, std::max(0.0, sensitivity->layers()[i].damage[m - 1])});
      classes_.push_back(std::move(one));
    }
    layers_ = classes_.size();
  }

  // Groups in the order of their first readers, so that each is run from there.
  void add_groups(PrefixReplay& replay, double base) {
    const ChannelGroups groups(model_);
    std::map<std::size_t, JointClass> found;
    struct Probe {
      std::size_t position = 0, group = 0;
      JointChoice choice;
      Replacements values;
    };
    std::vector<Probe> probes;
    std::map<NodeId, std::size_t> position;
    for (const auto id : model_.graph().nodes()) position.emplace(id, position.size());
    for (const auto& pruned : pruned_) {
      const PrunedGroups lost(model_, groups, pruned.model);
      for (const auto g : lost.lost()) {
        auto values = lost.replacements(g);
        const auto first = replay.first_reader(values);
        if (first == kNoNode) continue;
        auto& probe = probes.emplace_back();
        probe.position = position.at(first);
        probe.group = g;
        probe.choice.ratio = pruned.ratio;
        probe.choice.removed = lost.removed(g);
        probe.values = std::move(values);
      }
    }
    std::ranges::stable_sort(probes, {}, &Probe::position);
    auto task = options_.progress.start("pruning sensitivity", probes.size());
    for (auto& probe : probes) {
      if (options_.cancelled && options_.cancelled()) fail("pare.analysis.108", "", "the sweep was cancelled");
      const auto& group = groups.groups()[probe.group];
      replay.advance(model_.graph().nodes()[probe.position]);
      probe.choice.damage = loss_(replay.outputs(probe.values)) - base;
      if (!std::isfinite(probe.choice.damage))
        fail("pare.analysis.107", group.name, "the loss is {} with {:.0f} % of its units gone", probe.choice.damage,
             100 * probe.choice.ratio.fraction);
      probe.choice.damage = std::max(0.0, probe.choice.damage);
      auto& one = found[probe.group];
      if (one.choices.empty()) one = {group.name, {}, static_cast<std::int64_t>(group.size()), {{}}};
      one.choices.push_back(std::move(probe.choice));
      task.advance();
    }
    for (auto& [group, one] : found) {
      std::ranges::sort(one.choices, {}, &JointChoice::ratio);
      classes_.push_back(std::move(one));
    }
  }

  [[nodiscard]] Plan plan_of(const Selected& selected) const {
    Plan plan;
    for (std::size_t k = 0; k < classes_.size(); ++k) {
      const auto& choice = classes_[k].choices[selected[k]];
      const auto& next = classes_[k].choices[std::min(selected[k] + 1, classes_[k].choices.size() - 1)];
      const bool more = selected[k] + 1 < classes_[k].choices.size();
      if (k < layers_)
        plan.layers.push_back({classes_[k].name, choice.bits, classes_[k].size, choice.damage,
                               more ? fmt::format("{} bits would cost {:.4g}", next.bits.count, next.damage) : ""});
      else
        plan.groups.push_back(
            {classes_[k].name, choice.ratio, classes_[k].size, choice.damage,
             more ? fmt::format("{:.0f} % would cost {:.4g}", 100 * next.ratio.fraction, next.damage) : ""});
    }
    return plan;
  }

  [[nodiscard]] Selected selected_of(const Plan& plan) const {
    Selected selected;
    for (std::size_t k = 0; k < classes_.size(); ++k)
      for (std::size_t c = 0; c < classes_[k].choices.size(); ++c)
        if (k < layers_ ? classes_[k].choices[c].bits == plan.layers[k].weights
                        : classes_[k].choices[c].ratio == plan.groups[k - layers_].ratio)
          selected.push_back(c);
    return selected;
  }

  // All layers at the bits of one model, and every group at one ratio, or the nearest below that it can have.
  [[nodiscard]] Selected uniform(std::size_t model, Ratio ratio) const {
    Selected selected;
    for (std::size_t k = 0; k < classes_.size(); ++k) {
      std::size_t at = k < layers_ ? model : 0;
      for (std::size_t c = 0; k >= layers_ && c < classes_[k].choices.size(); ++c)
        if (classes_[k].choices[c].ratio <= ratio) at = c;
      selected.push_back(at);
    }
    return selected;
  }

  void evaluate_baselines() {
    for (std::size_t m = 0; m < quantized_.size(); ++m)
      for (std::size_t r = 0; r <= pruned_.size(); ++r) {
        const auto ratio = r == 0 ? Ratio{0} : pruned_[r - 1].ratio;
        auto name = fmt::format("uniform int{}", quantized_[m].weights.count);
        if (r > 0) name += fmt::format(", {:.0f} % pruned", 100 * ratio.fraction);
        evaluate(std::move(name), plan_of(uniform(m, ratio)));
      }
  }

  // Changes measured one at a time overstate what they cost together: a group's readers were refitted for a network in
  // which every group had lost units, and the others make up for part of it. What uniform plans really lost says by how
  // much, once for each number of bits and each ratio.
  void correct_by_baselines() {
    const auto share = [&](std::size_t model, std::size_t ratio) {
      const auto selected = uniform(model, ratio == 0 ? Ratio{0} : pruned_[ratio - 1].ratio);
      const auto point =
          std::ranges::find_if(result_.points, [&](const PlanPoint& one) { return selected_of(one.plan) == selected; });
      const auto sum = damage(selected);
      return point == result_.points.end() || sum <= 0 ? 1.0 : std::max(0.0, point->loss - base_) / sum;
    };
    std::map<Bits, double> of_bits;
    std::map<Ratio, double> of_ratio;
    for (std::size_t m = 1; m < quantized_.size(); ++m) of_bits[quantized_[m].weights] = share(m, 0);
    for (std::size_t r = 1; r <= pruned_.size(); ++r) of_ratio[pruned_[r - 1].ratio] = share(0, r);
    for (std::size_t k = 0; k < classes_.size(); ++k)
      for (auto& choice : classes_[k].choices) {
        if (k < layers_ && of_bits.contains(choice.bits)) choice.damage *= of_bits.at(choice.bits);
        if (k >= layers_ && of_ratio.contains(choice.ratio)) choice.damage *= of_ratio.at(choice.ratio);
      }
  }

  // Solves and realizes until a plan that was run keeps the latency.
  void search() {
    constexpr int kRounds = 6;
    const auto& limit = options_.limits.latency_ms;
    for (int round = 0; round < kRounds; ++round) {
      const auto found = solve();
      if (!found) return;
      const auto ms = evaluate(round == 0 ? "joint" : fmt::format("joint {}", round + 1), plan_of(*found));
      if (!limit || ms <= *limit) return;
      tighter_ *= std::min(0.98, *limit / ms);
    }
  }

  // @return ms of a call, where latencies are measured
  double evaluate(std::string name, Plan plan) {
    const auto same = [&](const PlanPoint& point) { return selected_of(point.plan) == selected_of(plan); };
    if (const auto known = std::ranges::find_if(result_.points, same); known != result_.points.end())
      return known->latency_ms;
    if (options_.cancelled && options_.cancelled()) fail("pare.analysis.108", "", "cancelled before {}", name);
    auto model = options_.realize(plan);
    model.eval();
    BatchOutputs outputs;
    for (const auto& batch : options_.batches) outputs.push_back(model.run(batch));
    const auto measured = loss_(outputs);
    if (!std::isfinite(measured)) fail("pare.analysis.107", name, "the loss of this plan is {}", measured);
    if (result_.points.empty()) base_ = measured;
    const auto selected = selected_of(plan);
    const auto predicted = base_ + plan.damage();
    const auto ms = latency_ ? latency_->measure(selected, model) : 0.0;
    result_.points.push_back({std::move(name), std::move(plan), predicted, measured, size_->bytes(selected), ms});
    result_.points.back().macs = size_->macs(selected);
    return ms;
  }

  [[nodiscard]] bool fits(const Selected& selected) const {
    const auto& limits = options_.limits;
    return (!limits.bytes || size_->bytes(selected) <= *limits.bytes) &&
           (!limits.macs || size_->macs(selected) <= *limits.macs * (1 + 1e-12)) &&
           (!limits.latency_ms || latency_->predict(selected) <= *limits.latency_ms * tighter_);
  }

  [[nodiscard]] double damage(const Selected& selected) const {
    double sum = 0;
    for (std::size_t k = 0; k < classes_.size(); ++k) sum += classes_[k].choices[selected[k]].damage;
    return sum;
  }

  // The knapsack of what each choice changes at a plan; what choices change together is left to the next round.
  [[nodiscard]] std::optional<Selected> around(const Selected& at, double tighter) const {
    const auto& limits = options_.limits;
    Knapsack knapsack;
    const auto budget = [&](double limit, auto&& cost, auto&& set) {
      const auto here = cost(at);
      double room = limit * tighter - here;
      for (std::size_t k = 0; k < classes_.size(); ++k) {
        std::vector<double> costs;
        for (std::size_t c = 0; c < classes_[k].choices.size(); ++c) {
          auto other = at;
          other[k] = c;
          costs.push_back(cost(other));
        }
        const auto least = *std::ranges::min_element(costs);
        room += here - least;
        for (std::size_t c = 0; c < costs.size(); ++c) set(k, c, costs[c] - least);
      }
      return room;
    };
    for (const auto& one : classes_) {
      auto& items = knapsack.classes.emplace_back();
      for (const auto& choice : one.choices) items.push_back({choice.damage, {}});
    }
    const auto add = [&](double limit, auto&& cost) {
      const auto room =
          budget(limit, cost, [&](auto k, auto c, double value) { knapsack.classes[k][c].costs.push_back(value); });
      knapsack.limits.push_back(room);
      return room >= 0;
    };
    bool possible = true;
    if (limits.bytes)
      possible = add(static_cast<double>(*limits.bytes),
                     [&](const Selected& s) { return static_cast<double>(size_->bytes(s)); });
    if (limits.macs && possible) possible = add(*limits.macs, [&](const Selected& s) { return size_->macs(s); });
    if (limits.latency_ms && possible)
      possible = add(*limits.latency_ms * tighter_, [&](const Selected& s) { return latency_->predict(s); });
    if (smallest()) {  // the smallest within the damage
      for (std::size_t k = 0; k < classes_.size(); ++k)
        for (std::size_t c = 0; c < classes_[k].choices.size(); ++c) {
          auto other = at;
          other[k] = c;
          knapsack.classes[k][c].loss = static_cast<double>(size_->bytes(other));
          knapsack.classes[k][c].costs = {classes_[k].choices[c].damage};
        }
      knapsack.limits = {*limits.damage};
    }
    if (!possible) return std::nullopt;
    const auto solution = knapsack.solve();
    return solution.feasible ? std::optional(solution.chosen) : std::nullopt;
  }

  [[nodiscard]] std::optional<Selected> solve() const {
    constexpr int kRounds = 24;
    std::optional<Selected> best;
    const auto better = [&](const Selected& a, const Selected& b) {
      return smallest() ? size_->bytes(a) < size_->bytes(b) : damage(a) < damage(b);
    };
    auto at = uniform(0, {0});
    double tighter = 1;
    for (int round = 0; round < kRounds; ++round) {
      if (fits(at) && (!smallest() || damage(at) <= *options_.limits.damage) && (!best || better(at, *best))) best = at;
      auto next = around(at, tighter);
      if (!next || *next == at) {
        if (best) break;
        // Beyond the limit by what choices take off together, or the plan at hand is too far away to see one.
        tighter *= next ? 0.98 : 1.0;
        next = next ? next : std::optional(uniform(quantized_.size() - 1, pruned_.back().ratio));
        if (*next == at && tighter == 1) break;
      }
      at = std::move(*next);
    }
    return best;
  }

  // Whether the fewest bytes are sought instead of the least damage.
  [[nodiscard]] bool smallest() const {
    const auto& limits = options_.limits;
    return limits.damage && !limits.bytes && !limits.macs && !limits.latency_ms;
  }

  void choose() {
    const auto& limits = options_.limits;
    const auto keeps = [&](const PlanPoint& point) {
      return point.excess(limits) <= 1 && (!limits.damage || point.loss - base_ <= *limits.damage);
    };
    std::optional<std::size_t> best;
    const auto& points = result_.points;
    for (std::size_t i = 0; i < points.size(); ++i)
      if (keeps(points[i]) &&
          (!best || (smallest() ? points[i].bytes < points[*best].bytes : points[i].loss < points[*best].loss)))
        best = i;
    if (!best) {
      const auto nearest =
          std::ranges::min_element(points, {}, [&](const PlanPoint& point) { return point.excess(limits); });
      best = static_cast<std::size_t>(nearest - points.begin());
      result_.shortfall = nearest->shortfall(limits);
      if (result_.shortfall.empty())
        result_.shortfall = fmt::format("a damage of {:.4g}, {:.4g} allowed", nearest->loss - base_, *limits.damage);
    }
    result_.chosen_point = *best;
    result_.plan = points[*best].plan;
  }

  Model model_;
  std::vector<Precision> quantized_;
  std::vector<PrunedModel> pruned_;
  const JointPlanOptions& options_;
  OutputLoss loss_;
  double base_ = 0;                  // of the finest uniform plan
  std::vector<JointClass> classes_;  // layers, then groups
  std::size_t layers_ = 0;
  std::optional<JointSize> size_;
  std::optional<JointLatency> latency_;
  double tighter_ = 1;  // share of the limit on the latency that layers may take
  JointPlanResult result_;
};

}  // namespace

JointPlanResult joint_plan(const Model& model, std::vector<Precision> quantized, std::vector<PrunedModel> pruned,
                           const JointPlanOptions& options) {
  const at::NoGradGuard no_grad;
  return JointSearch(model, std::move(quantized), std::move(pruned), options).run();
}

PARE_NAMESPACE_END
