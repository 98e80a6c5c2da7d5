#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "choice.hpp"
#include "commit_limits.hpp"
#include "graph/layer_pattern.hpp"
#include "latency_search.hpp"
#include "pare/core/error.hpp"
#include "pare/prune/pruning_settings.hpp"
#include "reconstruct.hpp"
#include "score.hpp"

PARE_NAMESPACE_BEGIN

namespace {

void check_share(const std::optional<Ratio>& share, std::string_view what) {
  if (share && !(share->fraction > 0.0 && share->fraction < 1.0))
    fail("pare.prune.101", "", "{} is {}: more than 0 and less than 1 can be removed", what, share->fraction);
}

// Groups on which a `keep` pattern lies: a layer that holds one of their weights is named.
std::set<std::string> kept_weights(const Model& model, const std::vector<std::string>& patterns) {
  std::set<std::string> kept;
  for (const auto& pattern : patterns) {
    bool found = false;
    for (const auto id : model.graph().nodes()) {
      const auto& node = model.graph().node(id);
      if (!names_layer(node, pattern)) continue;
      found = true;
      for (const auto& operand : node.operands)
        operand.each_value([&](ValueId value) {
          if (const auto weight = table_weight(model.graph(), value); weight != kNoValue)
            kept.insert(model.graph().value(weight).name);
        });
    }
    if (!found) fail("pare.prune.104", pattern, "no layer or module has this name");
  }
  return kept;
}

NodeId node_of(const Graph& graph, const ChannelGroup& group) {
  const auto weight = graph.weight(group.slices.front().path);
  if (weight == kNoValue) return kNoNode;
  for (const auto& use : graph.uses(weight))
    if (use.node != kNoNode) return use.node;
  return kNoNode;
}

void decline(Context& context, const ChannelGroup& group, std::string_view why) {
  context.report().declined(group.name, "channel group", why, {{"units", static_cast<double>(group.size())}});
}

}  // namespace

void validate_pruning(const PruningSettings& settings) {
  check_share(settings.ratio, "ratio");
  check_share(settings.macs, "macs");
  check_share(settings.parameters, "parameters");
  check_share(settings.bytes, "bytes");
  check_share(settings.latency, "latency");
  std::set<std::string> named;
  for (const auto& [group, ratio] : settings.group_ratios) {
    check_share(ratio, group);
    if (!named.insert(group).second) fail("pare.prune.102", group, "group_ratios names it twice");
  }
  if (settings.min_channels < 1) fail("pare.prune.102", "", "min_channels is {}", settings.min_channels);
  if (settings.latency_threads < 0) fail("pare.prune.102", "", "latency_threads is {}", settings.latency_threads);
  if (settings.round_to < 1) fail("pare.prune.102", "", "round_to is {}", settings.round_to);
  if (!(settings.max_ratio.fraction > 0.0 && settings.max_ratio.fraction < 1.0))
    fail("pare.prune.102", "", "max_ratio is {}: a group would vanish or stay", settings.max_ratio.fraction);
  if (settings.max_features < 1) fail("pare.prune.102", "", "max_features is {}", settings.max_features);
  if (!(settings.ridge >= 0.0) || !std::isfinite(settings.ridge))
    fail("pare.prune.102", "", "ridge is {}", settings.ridge);
  if (const auto damping = settings.importance.eliminates.value_or(0.0); !(damping >= 0.0) || !std::isfinite(damping))
    fail("pare.prune.102", "", "damping is {}", damping);
}

Preserved prune(Model& model, Context& context, const PruningSettings& given) {
  validate_pruning(given);
  auto settings = given;
  const bool calibrated = context.has_calibration();
  const auto need = settings.importance.need;
  if ((need == Need::Gradient || need == Need::Activations) && !calibrated)
    fail("pare.prune.107", "", "this criterion measures on calibration batches, and there are none");
  if (!calibrated) settings.importance.eliminates.reset();
  if (settings.scope == Scope::Automatic)
    settings.scope = settings.importance.eliminates ? Scope::Budgeted : Scope::PerGroup;
  const at::NoGradGuard no_grad;
  const bool training = model.is_training();
  model.eval();

  const auto original = model;
  auto squares = need == Need::Squares ? WeightSquares(original) : WeightSquares();
  const ChannelGroups groups(original);
  const auto kept = kept_weights(original, settings.keep);
  for (const auto& [name, ratio] : settings.group_ratios)
    if (std::ranges::find(groups.groups(), name, &ChannelGroup::name) == groups.groups().end())
      fail("pare.prune.104", name, "no channel group has this name");
  std::vector<const ChannelGroup*> open;
  std::string reasons;
  const auto leave = [&](const ChannelGroup& group, std::string_view why) {
    refuse_named(settings, group, why);
    reasons += fmt::format("; {}: {}", group.name, why);
    decline(context, group, why);
  };
  for (const auto& group : groups.groups()) {
    const bool named = std::ranges::any_of(group.slices, [&](const auto& slice) { return kept.contains(slice.path); });
    if (group.is_frozen() || named) {
      leave(group, group.is_frozen() ? std::string_view(group.frozen) : "it was asked to be kept");
    } else {
      open.push_back(&group);
    }
  }
  std::optional<CommitTrial> trial;
  if (settings.commit_to) {
    trial.emplace(original, settings.commit_to);
    for (const auto& [group, why] : commit_limits(original, groups, open, *trial)) {
      leave(*group, why);
      std::erase(open, group);
    }
  }
  if (open.empty()) fail("pare.prune.106", "", "the model has no channels that could be pruned{}", reasons);

  const auto* batches = calibrated ? &context.calibration() : nullptr;
  Batch inputs;
  if (batches && !batches->empty()) inputs = *batches->begin();
  Chooser chooser(original, groups, score(original, open, batches, context.seed(), settings, std::move(squares)),
                  std::move(inputs), trial ? &*trial : nullptr);
  const auto pruning = settings.latency && settings.group_ratios.empty() ? meet_latency(original, chooser, settings)
                                                                         : chooser.choose(settings);
  for (const auto& [group, reason] : chooser.declined()) decline(context, *group, reason);
  apply_removal(context.rewriter(), pruning.removal);
  for (const auto& choice : pruning.choices) {
    const auto& group = *choice.group;
    const auto text = choice.units.empty()
                          ? fmt::format("all {} units stay", group.size())
                          : fmt::format("{} of {} units stay", group.size() - choice.units.size(), group.size());
    Reporter::Figures figures{{"units", static_cast<double>(group.size())},
                              {"kept", static_cast<double>(group.size() - choice.units.size())}};
    if (const auto node = node_of(original.graph(), group); node != kNoNode && !choice.units.empty()) {
      context.report().done(group.name, original.graph().node(node).op.name(), text, std::move(figures));
    } else {
      context.report().done(group.name, "channel group", text, std::move(figures));
    }
  }
  if (batches && (settings.reconstruct || settings.recalibrate))
    reconstruct(original, model, context.rewriter(), groups, pruning, *batches, settings);
  model.train(training);
  return Preserved::none();
}

PARE_NAMESPACE_END
