#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pare/prune/least_squares.hpp"
#include "pare/prune/pruning_settings.hpp"

PARE_NAMESPACE_BEGIN

/// Structured pruning: whole channels, heads, neurons and hidden units leave, and the model is smaller everywhere.
///
///     pare::Pruner{}                                                        // half of the multiply-accumulates
///     pare::Pruner{.importance = pare::Taylor{}, .macs = 50_pct, .round_to = 8}
///     pare::Pruner{.ratio = 30_pct, .keep = {"fc", "stem.*"}}               // 30 % of the units of every group
///     pare::Pruner{.macs = 50_pct, .commit_to = net}                        // what net's own forward can compute
///
/// Before: a model. After: the same graph on narrower weights, its constants (sizes of views, groups, chunks) adapted;
/// every narrowed weight remembers which entries stayed (`Weights::narrowings`), so that the live module and an
/// optimizer can follow.
///
/// Steps: units are scored (`importance`, summed over everything that goes with a unit), chosen until the target is
/// met, removed; the layers behind are refitted by least squares to the original's outputs on the calibration data, in
/// order, each against the inputs that the pruned model really gives it and against what the shortcut beside it has
/// lost (He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017); batch norms get the
/// statistics' change. Without calibration data the last two are left out.
///
/// Of the targets the first given counts: `group_ratios`, `latency`, `ratio`, `macs`, `parameters`, `bytes`; each is
/// the share that goes. None: half of the multiply-accumulates. For `latency`, models with fewer and fewer
/// multiply-accumulates are compiled and timed beside the original until the share is found; on a busy machine it is as
/// inexact as the clock. A group that cannot be pruned is a `declined` row that says why.
///
/// Shares of units (`ratio`, `group_ratios`) are rounded to whole units, or to what `round_to` allows; where
/// `max_ratio` or `min_channels` keeps more of them than rounding does, or a group in `group_ratios` cannot be pruned,
/// the target is not met. `ratio` is of the groups that can be pruned.
///
/// Errors: `pare.prune.101` a target of nothing or everything, `.102` another option out of range, or a group twice in
/// `group_ratios`, `.103` importances that are NaN, infinite or not one for each unit, or calibration batches without
/// samples, or on which a layer meets NaN or infinities, `.104` a `keep` pattern or a name in `group_ratios` that fits
/// nothing, `.105` a target that cannot be met, `.106` nothing can be pruned, `.107` a criterion that needs calibration
/// and has none, `.110` a `loss` that fails, is no scalar or has no gradient. With `commit_to` also those of `commit`,
/// where not even the model as it is could be written back.
template <class Importance = LeastSquares>
struct Pruner {
  Importance importance = {};
  std::optional<Ratio> ratio = {};       ///< units to remove from every group, or of all (`scope`)
  std::optional<Ratio> macs = {};        ///< multiply-accumulates to remove
  std::optional<Ratio> parameters = {};  ///< entries of parameters to remove
  std::optional<Ratio> bytes = {};       ///< bytes of weights to remove
  std::optional<Ratio> latency = {};     ///< time of the compiled model to remove, measured here and now
  /// Units to remove from groups by name (`ChannelGroup::name`, as in the report and in a `Plan`); other groups stay
  /// whole. Comes before the targets above.
  std::vector<std::pair<std::string, Ratio>> group_ratios = {};
  int latency_threads = 0;    ///< of the compiled model then; 0: as many as LibTorch uses
  Batch latency_inputs = {};  ///< what they run on; empty: the first calibration batch, or the captured sizes
  Scope scope = Scope::Automatic;
  std::int64_t min_channels = 1;       ///< left on every axis
  std::int64_t round_to = 1;           ///< what is left of a group is a multiple of this, where it was before
  Ratio max_ratio = {0.9};             ///< removed from a group at most
  std::vector<std::string> keep = {};  ///< layers left alone: names, module paths, or patterns with `*` and `?`
  Aggregation aggregation = {};        ///< over the slices of a group; empty: their sum
  ImportanceLoss loss = {};            ///< for criteria that want gradients; empty: cross entropy with the model's own
                                       ///< predictions where the output is `[N, classes]`, else the mean square
  bool reconstruct = true;             ///< refit the layers behind what was removed; wants calibration
  bool recalibrate = true;             ///< move batch norms' statistics by their change; wants calibration
  std::int64_t max_features = 2400;  ///< layers with more inputs per output are not refitted: time grows with the cube

  double ridge = 0.01;  ///< pull of the refitted weights towards what they were, of the inputs' variance
  /// The live module that the result is to be committed to. What its own forward has written in (heads in a view, the
  /// channels that a shortcut pads) stays then, and `commit` agrees; without it, such channels go too, which suits what
  /// is compiled or exported.
  LiveModule commit_to = {};

  static constexpr std::string_view kName = "Pruner";

  /// @throws Error `pare.prune.101`, `.102`
  void validate() const { validate_pruning(settings()); }
  Preserved run(Model& model, Context& context) { return prune(model, context, settings()); }

 private:
  [[nodiscard]] PruningSettings settings() const {
    return {AnyImportance::of(importance),
            aggregation,
            loss,
            ratio,
            macs,
            parameters,
            bytes,
            latency,
            group_ratios,
            latency_threads,
            latency_inputs,
            scope,
            min_channels,
            round_to,
            max_ratio,
            keep,
            reconstruct,
            recalibrate,
            max_features,
            ridge,
            commit_to};
  }
};

PARE_NAMESPACE_END
