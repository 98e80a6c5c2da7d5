#include "latency_search.hpp"

#include "pare/analysis/latency.hpp"
#include "pare/core/error.hpp"
#include "pare/execute/compile.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// Of the compiled model, against the original's.
class Stopwatch {
 public:
  Stopwatch(const Model& model, const PruningSettings& settings, Batch inputs)
      : model_(model),
        settings_(settings),
        inputs_(std::move(inputs)),
        original_(compile(model, {.threads = settings.latency_threads})) {}

  double share_of(const Pruning& pruning) {
    auto trial = model_;
    Rewriter rewriter(trial);
    apply_removal(rewriter, pruning.removal);
    auto compiled = compile(trial, {.threads = settings_.latency_threads});
    constexpr double kSeconds = 0.4;
    const auto times = measure_latency(
        {[&] { static_cast<void>(original_.run(inputs_)); }, [&] { static_cast<void>(compiled.run(inputs_)); }},
        kSeconds);
    return times[1].median_ms / times[0].median_ms;
  }

 private:
  const Model& model_;
  const PruningSettings& settings_;
  Batch inputs_;
  CompiledModel original_;
};

}  // namespace

Pruning meet_latency(const Model& model, Chooser& chooser, const PruningSettings& given) {
  auto settings = given;
  Stopwatch stopwatch(model, settings, settings.latency_inputs.empty() ? chooser.inputs() : settings.latency_inputs);
  const auto wanted = 1.0 - settings.latency->fraction;
  settings.ratio.reset();
  constexpr int kSteps = 7;
  std::optional<Pruning> best;
  double low = 0, high = 1, least = 1;  // shares of the multiply-accumulates; `high` is enough or cannot be had
  for (int step = 0; step < kSteps; ++step) {
    settings.macs = Ratio{(low + high) / 2};
    std::optional<Pruning> pruning;
    try {
      pruning = chooser.choose(settings);
    } catch (const Error& error) {
      if (error.id() != "pare.prune.105") throw;
    }
    const auto share = pruning ? stopwatch.share_of(*pruning) : 0.0;
    if (pruning) least = std::min(least, share);
    if (pruning && share > wanted) {
      low = settings.macs->fraction;
      continue;
    }
    high = settings.macs->fraction;
    if (pruning) best = std::move(pruning);
  }
  if (!best)
    fail("pare.prune.105", "",
         "the smallest model that was found takes {:.0f} % of the time, and {:.0f} % were asked for: relax max_ratio, "
         "min_channels or keep",
         100 * least, 100 * wanted);
  return *std::move(best);
}

PARE_NAMESPACE_END
