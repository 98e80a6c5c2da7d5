#include "pare/pipeline/auto.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "execute/processor.hpp"
#include "pare/analysis/float_switches.hpp"
#include "pare/core/error.hpp"
#include "pare/plan/mixed_precision.hpp"
#include "pipeline/bench.hpp"
#include "pipeline/recovery.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using namespace literals;

constexpr std::array kHalves{0.125, 0.25, 0.5};                     // of the layers, in bf16
constexpr std::array kShares{0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9};  // of the multiply-accumulates, pruned
constexpr std::size_t kBetween = 7;                                 // plans between int4 and int8, to choose from

// Whether every output says how likely each of several classes is. Fisher information and divergences see nothing else.
bool all_classes(const std::vector<at::Tensor>& outputs) {
  return std::ranges::all_of(outputs, [](const at::Tensor& output) {
    if (!output.defined() || !output.is_floating_point()) return true;
    return output.dim() >= 2 && output.size(output.dim() >= 4 ? 1 : -1) > 1;
  });
}

// Of answers that no sum of squares compares, such as numbers of classes: the share that changed.
OutputLoss change_from(BatchOutputs expected) {
  return [expected = std::move(expected)](const BatchOutputs& outputs) {
    double changed = 0, count = 0;
    for (std::size_t b = 0; b < expected.size(); ++b)
      for (std::size_t i = 0; i < expected[b].size(); ++i) {
        if (!expected[b][i].defined()) continue;
        changed += outputs[b][i].ne(expected[b][i]).sum().item<double>();
        count += static_cast<double>(expected[b][i].numel());
      }
    return count > 0 ? changed / count : 0.0;
  };
}

/// One climb.
class Climb {
 public:
  Climb(const Model& model, const AutoOptions& options)
      : options_(options), bench_(model, options), ladder_(bench_.original(), options.compile) {}

  AutoResult run() {
    whole_ = &bench_.measure(ladder_.float32());
    int8_ = &bench_.measure(ladder_.int8());
    auto* best = int8_;
    if (!bench_.keeps_drop(*int8_)) best = rescue();
    if (best == int8_) {
      if (bench_.too_large(*best)) best = shrink();
      if (bench_.too_large(*best) || bench_.too_slow(*best)) best = prune(*best);
    }
    if (options_.training.data && !bench_.short_of(*best).empty()) best = train(*best);
    explore();
    if (bench_.short_of(*best).empty()) return finish(*best);
    approach();
    return finish(nearest(*best));
  }

 private:
  // int8 loses too much: the layers that cost most are not rounded, as few as it takes; or all learn to bear it.
  Built* rescue() {
    const auto order = costliest();
    const auto unrounded = processor().multiplies_bf16() ? 16_bits : 32_bits;
    std::size_t before = 0;
    for (const double share : kHalves) {
      const auto count = static_cast<std::size_t>(std::ceil(share * static_cast<double>(order.size())));
      if (count == before) continue;
      before = count;
      auto plan = int8_->candidate.plan;
      for (std::size_t i = 0; i < count; ++i) plan.layers[order[i]].weights = unrounded;
      auto& built = planned(plan);
      if (bench_.keeps_drop(built)) return &built;
    }
    if (auto* trained = quantized("int8, trained quantized", bench_.original()); trained && bench_.keeps_drop(*trained))
      return trained;
    auto& half = bench_.measure(ladder_.bf16());
    return bench_.keeps_drop(half) ? &half : whole_;
  }

  // Integer layers of the plan, by what the answers gain where one alone is not rounded, most first.
  std::vector<std::size_t> costliest() {
    const auto context = bench_.context(options_.calibration);
    const Sensitivity found(with_float_switches(int8_->model),
                            {{"float32", ladder_.int8_but("float32", {"*"}).build(context).model}},
                            by_answers<SensitivityOptions>(context));
    evaluations_ += found.evaluations();
    const auto& layers = int8_->candidate.plan.layers;
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < layers.size(); ++i)
      if (layers[i].weights <= 8_bits) order.push_back(i);
    std::ranges::stable_sort(order, {}, [&](std::size_t i) { return found.layer(layers[i].name).damage.front(); });
    return order;
  }

  /// How answers are compared with the captured model's.
  struct Yardstick {
    OutputLoss loss;
    BatchOutputs answers;  // of the Fisher method
    SensitivityMethod method = SensitivityMethod::Fisher;
  };

  const Yardstick& yardstick() {
    if (yardstick_) return *yardstick_;
    BatchOutputs answers;
    {
      const at::NoGradGuard no_grad;
      for (const auto& batch : options_.calibration) answers.push_back(bench_.original().run(batch));
    }
    const auto floating = [](const at::Tensor& output) { return output.defined() && output.is_floating_point(); };
    if (std::ranges::none_of(answers.front(), floating)) {
      yardstick_ = Yardstick{change_from(std::move(answers)), {}, SensitivityMethod::Exact};
    } else if (all_classes(answers.front())) {
      yardstick_ = Yardstick{divergence_from(answers), answers};
    } else {
      yardstick_ = Yardstick{noise_against(std::move(answers)), {}, SensitivityMethod::Exact};
    }
    return *yardstick_;
  }

  // What a search over the calibration data takes, whichever it is.
  template <class Search>
  Search by_answers(const ContextOptions& context) {
    const auto& measure = yardstick();
    Search search;
    search.batches = options_.calibration;
    search.loss = measure.loss;
    search.answers = measure.answers;
    search.method = measure.method;
    search.seed = options_.seed;
    search.progress = context.progress;
    return search;
  }

  // The precisions that plans choose from.
  MixedPrecisionResult plan(const PlanLimits& limits, std::size_t front) {
    const auto context = bench_.context(options_.calibration);
    if (!int4_) {
      auto all4 = plan_of(int8_->model, options_.compile);
      for (auto& layer : all4.layers)
        if (layer.weights == 8_bits) layer.weights = 4_bits;
      int4_ = ladder_.planned(all4).build(context).model;
    }
    auto search = by_answers<MixedPrecisionOptions>(context);
    search.limits = limits;
    search.front = front;
    auto found = mixed_precision({{8_bits, int8_->model}, {4_bits, *int4_}}, search);
    evaluations_ += found.evaluations;
    sensitivity_ = found.sensitivity;
    return found;
  }

  Built& planned(const Plan& plan, Rounding rounding = Rounding::Compensated) {
    auto& built = bench_.measure(ladder_.planned(plan, rounding));
    built.candidate.plan = plan;
    return built;
  }

  // A plan whose drop is kept, with learned rounding only if it takes that; nothing where it is not.
  Built* within_drop(const Plan& plan) {
    for (const auto rounding : {Rounding::Compensated, Rounding::Learned})
      if (auto& built = planned(plan, rounding); bench_.keeps_drop(built)) return &built;
    return nullptr;
  }

  Built* shrink() {
    if (int8_->candidate.plan.layers.empty()) return int8_;
    const auto& budget = options_.budget;
    auto limit = budget.stored ? budget.stored->count : budget.bytes->count;
    if (budget.bytes) {
      // Kernels hold sums and paddings beside what is stored.
      const auto& int8 = int8_->candidate;
      const auto beside = int8.measured.weight_bytes - std::min(int8.measured.weight_bytes, int8.stored);
      limit = std::min(limit, budget.bytes->count - std::min(beside, budget.bytes->count - 1));
    }
    const auto found = plan({.bytes = limit}, 0);
    planned_ = true;
    if (auto* built = within_drop(found.plan)) return built;
    lossy_ = found.chosen().bytes;
    return int8_;
  }

  // Nothing where so much cannot be pruned.
  Built* pruned(double macs) {
    auto recipe = ladder_.pruned(macs);
    if (auto* known = bench_.find(recipe.name)) return known;
    try {
      return &bench_.measure(std::move(recipe));
    } catch (const Error& error) {
      if (error.id() != "pare.prune.105" && error.id() != "pare.prune.106") throw;
      options_.log.info("no more is pruned: {}", error.what());
      return nullptr;
    }
  }

  Built* prune(Built& start) {
    auto* best = &start;
    for (const double macs : kShares) {
      auto* built = pruned(macs);
      if (built == nullptr || !bench_.keeps_drop(*built)) break;
      best = built;
      if (bench_.short_of(*built).empty()) break;
    }
    return best;
  }

  // Trains the least pruned network that is small and fast enough: neither changes by training.
  Built* train(Built& start) {
    std::vector<double> shares{0.0};
    shares.insert(shares.end(), kShares.begin(), kShares.end());
    for (const double macs : shares) {
      auto* untrained = macs == 0 ? int8_ : pruned(macs);
      if (untrained == nullptr) break;
      if (bench_.too_large(*untrained) || bench_.too_slow(*untrained)) continue;
      if (bench_.keeps_drop(*untrained)) return untrained;
      auto student = Applied{bench_.original(), {}};
      std::string name = "int8";
      if (macs > 0) {
        const auto stem = fmt::format("pruned by {:.0f} %, distilled", 100 * macs);
        student = distilled(stem, macs);
        name = stem + ", int8";
        auto& built = bench_.measure(ladder_.int8_of(name, student));
        if (bench_.short_of(built).empty()) return &built;
      }
      auto* built = quantized(name + ", trained quantized", student.model, student.report);
      return built && bench_.short_of(*built).empty() ? built : &start;
    }
    return &start;
  }

  Applied distilled(const std::string& name, double macs) {
    return bench_.once(name, [&](const std::string& draft) {
      auto context = bench_.context(options_.calibration);
      auto thin = ladder_.thin(macs, context);
      auto trained = taught(std::move(thin.model), {options_.training, bench_.original(), std::move(context), draft});
      thin.report.append(trained.report);
      return Applied{std::move(trained.model), std::move(thin.report)};
    });
  }

  // Nothing where there is nothing to train with.
  Built* quantized(const std::string& name, const Model& student, const Report& before = {}) {
    if (!options_.training.data || options_.training.quantized_epochs == 0) return nullptr;
    if (auto* known = bench_.find(name)) return known;
    return &bench_.measure(ladder_.finished(name, [&, student, before](const ContextOptions& context) {
      auto trained = trained_quantized(student, {options_.training, bench_.original(), context});
      Report report = before;
      report.append(trained.report);
      return Applied{std::move(trained.model), std::move(report)};
    }));
  }

  // A plan of the size that is asked for loses too much: the smallest of those between it and int8 that does not.
  void approach() {
    if (!lossy_) return;
    auto points = plan({}, kBetween).points;
    std::erase_if(points, [&](const PlanPoint& p) { return !p.name.starts_with("front") || p.bytes <= *lossy_; });
    std::ranges::sort(points, {}, &PlanPoint::bytes);
    for (auto first = points.begin(), last = points.end(); first != last;) {
      const auto middle = first + (last - first) / 2;
      if (within_drop(middle->plan) != nullptr)
        last = middle;
      else
        first = middle + 1;
    }
  }

  // No candidate keeps the whole budget: of those that lose no more than allowed, the one that is nearest to it.
  Built& nearest(Built& otherwise) {
    auto* best = bench_.keeps_drop(otherwise) ? &otherwise : nullptr;
    for (auto& built : bench_.built())
      if (bench_.keeps_drop(built) && (best == nullptr || bench_.excess(built) < bench_.excess(*best))) best = &built;
    return best == nullptr ? otherwise : *best;
  }

  // What less would cost: plans between int4 and int8, for whoever reads the report.
  void explore() {
    if (options_.explore == 0 || planned_ || int8_->candidate.plan.layers.empty()) return;
    const auto found = plan({}, options_.explore);
    for (const auto& point : found.points)
      if (point.name.starts_with("front")) planned(point.plan);
  }

  [[nodiscard]] static bool dominates(const Candidate& a, const Candidate& b) {
    const auto metric = [](const Candidate& c) { return c.measured.metric.value_or(0); };
    const bool as_good =
        metric(a) >= metric(b) && a.stored <= b.stored && a.measured.latency.median_ms <= b.measured.latency.median_ms;
    return as_good && (metric(a) > metric(b) || a.stored < b.stored ||
                       a.measured.latency.median_ms < b.measured.latency.median_ms);
  }

  void explain(const Built& best) {
    for (auto& built : bench_.built()) {
      auto& candidate = built.candidate;
      candidate.kept = &built == &best;
      candidate.reason = bench_.short_of(built);
      if (candidate.kept && candidate.reason.empty()) candidate.reason = "within the budget";
      if (!candidate.kept && candidate.reason.empty()) candidate.reason = "the budget does not need it";
      candidate.on_front = std::ranges::none_of(
          bench_.built(), [&](const Built& other) { return dominates(other.candidate, candidate); });
    }
  }

  AutoResult finish(Built& best) {
    explain(best);
    if (!options_.refit.empty() && best.recipe.fresh) {
      auto applied = best.recipe.build(bench_.context(options_.refit));
      best.model = std::move(applied.model);
      best.rows = std::move(applied.report);
      best.compiled.reset();
    }
    if (!best.compiled) best.compiled = compile(best.model, best.recipe.compile);
    AutoResult result{best.model,   *best.compiled,    bench_.report(best), {}, best.candidate.plan, sensitivity_,
                      evaluations_, bench_.original(), best.recipe.compile};
    for (auto& built : bench_.built()) result.candidates.push_back(std::move(built.candidate));
    return result;
  }

  const AutoOptions& options_;
  Bench bench_;
  Ladder ladder_;
  Built *whole_ = nullptr, *int8_ = nullptr;
  std::optional<Yardstick> yardstick_;
  std::optional<Sensitivity> sensitivity_;
  double evaluations_ = 0;
  bool planned_ = false;
  std::optional<Model> int4_;
  std::optional<std::uint64_t> lossy_;  // stored bytes of a plan that loses too much
};

}  // namespace

AutoResult optimize(const Model& model, const AutoOptions& options) {
  validate_auto(options);
  return Climb(model, options).run();
}

PARE_NAMESPACE_END
