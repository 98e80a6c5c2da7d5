#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "graph/layer_pattern.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/analysis/size_model.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/interpreter.hpp"
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

void apply(Rewriter& rewriter, const Removal& removal) {
  for (const auto& weight : removal.weights) rewriter.narrow(weight.path, weight.dim, weight.kept);
  for (const auto& constant : removal.constants)
    rewriter.set_operand(constant.node, constant.position, constant.operand);
  for (const auto& replacement : removal.replacements)
    rewriter.replace(replacement.node, replacement.op, replacement.operands);
  for (const auto& type : removal.types) rewriter.set_type(type.value, type.type);
}

// Inputs of the right shapes, where there are no calibration batches to try a model on.
Batch dummy_inputs(const Graph& graph) {
  Batch inputs;
  for (const auto id : graph.inputs()) {
    const auto& type = graph.value(id).type;
    std::vector<std::int64_t> sizes;
    for (const auto& size : type.sizes) sizes.push_back(size.evaluate(graph.example_dims()));
    inputs.push_back(c10::isFloatingType(type.dtype) ? at::ones(sizes, at::TensorOptions(type.dtype))
                                                     : at::zeros(sizes, at::TensorOptions(type.dtype)));
  }
  return inputs;
}

/// One pruning of one model: what goes from each group, tried before it is believed.
class Attempt {
 public:
  Attempt(const Model& model, const ChannelGroups& groups, Batch inputs)
      : model_(model), groups_(groups), inputs_(std::move(inputs)) {}

  // The edits, or why there are none.
  std::optional<Removal> plan(const std::vector<std::int64_t>& units, std::string& why) const {
    try {
      auto removal = groups_.removal(units);
      while (!checked(removal)) {
      }
      return removal;
    } catch (const Error& error) {
      why = error.what();
      return std::nullopt;
    }
  }

 private:
  // Runs the model that a removal leaves. Where a view refuses the strides it is given now (one head left of several
  // makes a transpose a mere renaming), it becomes a reshape. @return false when the removal was changed so
  bool checked(Removal& removal) const {
    auto trial = model_;
    Rewriter rewriter(trial);
    apply(rewriter, removal);
    try {
      check(trial);
      return true;
    } catch (const Error& error) {
      const auto id = trial.graph().find(error.path());
      if (error.id() != "pare.run.105" || id == kNoNode || !trial.graph().node(id).is("aten::view")) throw;
      removal.replacements.push_back({id, "aten::reshape", trial.graph().node(id).operands});
      return false;
    }
  }

  // Runs it: every value must have the shape it was predicted to have.
  void check(const Model& trial) const {
    const at::NoGradGuard no_grad;
    const auto dims = Interpreter::bind_dims(trial.graph(), inputs_);
    static_cast<void>(trial.run(inputs_, [&](ValueId value, const at::Tensor& tensor) {
      if (!tensor.defined()) return;
      const auto& type = trial.graph().value(value).type;
      for (std::size_t axis = 0; axis < type.rank() && static_cast<std::int64_t>(type.rank()) == tensor.dim(); ++axis)
        if (const auto expected = type.sizes[axis].evaluate(dims);
            expected != tensor.size(static_cast<std::int64_t>(axis)))
          fail("pare.prune.108", "", "an axis has {} entries where {} were predicted",
               tensor.size(static_cast<std::int64_t>(axis)), expected);
    }));
  }

  const Model& model_;
  const ChannelGroups& groups_;
  Batch inputs_;
};

struct Choice {
  const Candidate* candidate;
  std::vector<std::int64_t> units;
};

std::vector<std::int64_t> all_units(const std::vector<Choice>& choices) {
  std::vector<std::int64_t> units;
  for (const auto& choice : choices) units.insert(units.end(), choice.units.begin(), choice.units.end());
  return units;
}

}  // namespace

void validate_pruning(const PruningSettings& settings) {
  check_share(settings.ratio, "ratio");
  check_share(settings.macs, "macs");
  check_share(settings.parameters, "parameters");
  check_share(settings.bytes, "bytes");
  if (settings.min_channels < 1) fail("pare.prune.102", "", "min_channels is {}", settings.min_channels);
  if (settings.round_to < 1) fail("pare.prune.102", "", "round_to is {}", settings.round_to);
  if (!(settings.max_ratio.fraction > 0.0 && settings.max_ratio.fraction < 1.0))
    fail("pare.prune.102", "", "max_ratio is {}: a group would vanish or stay", settings.max_ratio.fraction);
  if (settings.max_features < 1) fail("pare.prune.102", "", "max_features is {}", settings.max_features);
}

Preserved prune(Model& model, Context& context, const PruningSettings& given) {
  validate_pruning(given);
  auto settings = given;
  const bool calibrated = context.has_calibration();
  if (settings.importance.need != Need::Weights && !calibrated)
    fail("pare.prune.107", "", "this criterion measures on calibration batches, and there are none");
  if (!calibrated) settings.importance.eliminates.reset();
  if (settings.scope == Scope::Automatic)
    settings.scope = settings.importance.eliminates ? Scope::Budgeted : Scope::PerGroup;
  const at::NoGradGuard no_grad;
  const bool training = model.is_training();
  model.eval();

  const auto original = model;
  const ChannelGroups groups(original);
  const auto kept = kept_weights(original, settings.keep);
  std::vector<const ChannelGroup*> open;
  for (const auto& group : groups.groups()) {
    const bool named = std::ranges::any_of(group.slices, [&](const auto& slice) { return kept.contains(slice.path); });
    if (group.is_frozen() || named) {
      decline(context, group, group.is_frozen() ? std::string_view(group.frozen) : "it was asked to be kept");
    } else {
      open.push_back(&group);
    }
  }
  if (open.empty()) fail("pare.prune.106", "", "the model has no channels that could be pruned");

  const auto* batches = calibrated ? &context.calibration() : nullptr;
  Batch inputs = dummy_inputs(original.graph());
  if (batches)
    for (const auto& batch : *batches) {
      inputs = batch;
      break;
    }
  const Attempt attempt(original, groups, std::move(inputs));
  auto candidates = score(original, open, batches, context.seed(), settings);
  std::vector<Choice> choices;
  std::optional<Removal> removal;
  for (;;) {  // a group that does not verify is frozen, and the choice is made again
    if (candidates.empty()) fail("pare.prune.106", "", "the model has no channels that could be pruned");
    const auto counts = select(candidates, SizeModel(original, groups), settings);
    choices.clear();
    for (std::size_t c = 0; c < candidates.size(); ++c)
      choices.push_back(
          {&candidates[c],
           {candidates[c].order.begin(), candidates[c].order.begin() + static_cast<std::ptrdiff_t>(counts[c])}});
    std::string why;
    removal = attempt.plan(all_units(choices), why);
    if (removal) break;
    std::vector<std::size_t> stuck;
    for (std::size_t c = 0; c < choices.size(); ++c) {
      std::string reason;
      if (choices[c].units.empty() || attempt.plan(choices[c].units, reason)) continue;
      decline(context, *choices[c].candidate->group, reason);
      stuck.push_back(c);
    }
    if (stuck.empty()) fail("pare.prune.108", "", "{}", why);
    for (auto it = stuck.rbegin(); it != stuck.rend(); ++it)
      candidates.erase(candidates.begin() + static_cast<std::ptrdiff_t>(*it));
  }
  apply(context.rewriter(), *removal);
  for (const auto& choice : choices) {
    const auto& group = *choice.candidate->group;
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
    reconstruct(original, model, context.rewriter(), *removal, *batches, settings);
  model.train(training);
  return Preserved::none();
}

PARE_NAMESPACE_END
