#include "choice.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "commit_limits.hpp"
#include "graph/shape_only_call.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

namespace {

std::vector<std::int64_t> all_units(const std::vector<Choice>& choices) {
  std::vector<std::int64_t> units;
  for (const auto& choice : choices) units.insert(units.end(), choice.units.begin(), choice.units.end());
  return units;
}

// Every value must have the shape it was predicted to have.
void check_run(const Model& trial, const Batch& inputs, const NodeOverride& compute = {}) {
  const at::NoGradGuard no_grad;
  const auto& graph = trial.graph();
  const auto dims = Interpreter::bind_dims(graph, inputs);
  const auto check = [&](ValueId value, const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    const auto& type = graph.value(value).type;
    for (std::size_t axis = 0; axis < type.rank() && static_cast<std::int64_t>(type.rank()) == tensor.dim(); ++axis)
      if (const auto expected = type.sizes[axis].evaluate(dims);
          expected != tensor.size(static_cast<std::int64_t>(axis)))
        fail("pare.prune.108", "", "an axis has {} entries where {} were predicted",
             tensor.size(static_cast<std::int64_t>(axis)), expected);
  };
  static_cast<void>(Interpreter(graph).run(graph, trial.weights(), trial.is_training(), inputs, check, compute));
}

bool only_shapes(const Node& node, std::vector<c10::IValue>& stack) {
  return shape_only_call(node.op.handle(), stack, stack.size(), false);
}

// What a removal changes besides weights.
void edit_graph(Rewriter& rewriter, const Removal& removal) {
  for (const auto& constant : removal.constants)
    rewriter.set_operand(constant.node, constant.position, constant.operand);
  for (const auto& replacement : removal.replacements)
    rewriter.replace(replacement.node, replacement.op, replacement.operands);
  for (const auto& type : removal.types) rewriter.set_type(type.value, type.type);
}

}  // namespace

void refuse_named(const PruningSettings& settings, const ChannelGroup& group, std::string_view why) {
  for (const auto& [name, ratio] : settings.group_ratios)
    if (name == group.name)
      fail("pare.prune.105", name, "{:.1f} % of its units were to go, and none can: {}", 100 * ratio.fraction, why);
}

Batch made_up_inputs(const Model& model) {
  const auto& graph = model.graph();
  const auto device = model.weights().empty() ? at::Device(at::kCPU) : model.weights().begin()->second.tensor.device();
  Batch inputs;
  for (const auto id : graph.inputs()) {
    const auto& type = graph.value(id).type;
    const auto sizes = type.sizes_at(graph.example_dims());
    inputs.push_back(c10::isFloatingType(type.dtype) ? at::ones(sizes, at::TensorOptions(type.dtype).device(device))
                                                     : at::zeros(sizes, at::TensorOptions(type.dtype).device(device)));
  }
  return inputs;
}

void apply_removal(Rewriter& rewriter, const Removal& removal) {
  const auto& weights = removal.weights;  // the axes of one stand behind each other
  for (std::size_t i = 0; i < weights.size();) {
    std::vector<Narrowing> cuts;
    const auto& path = weights[i].path;
    for (; i < weights.size() && weights[i].path == path; ++i) cuts.push_back({weights[i].dim, weights[i].kept});
    rewriter.narrow(path, std::move(cuts));
  }
  edit_graph(rewriter, removal);
}

Chooser::Chooser(const Model& model, const ChannelGroups& groups, std::vector<RankedGroup> candidates, Batch inputs,
                 CommitTrial* trial)
    : model_(model),
      groups_(groups),
      sizes_(model, groups),
      candidates_(std::move(candidates)),
      inputs_(inputs.empty() ? made_up_inputs(model) : std::move(inputs)),
      trial_(trial) {}

// The edits, or why there are none.
std::optional<Removal> Chooser::plan(const std::vector<std::int64_t>& units, std::string& why) const {
  try {
    auto removal = groups_.removal(units);
    while (!checked(removal)) {
    }
    if (auto refusal = trial_ ? commit_refusal(model_, removal, *trial_) : std::nullopt) {
      why = *std::move(refusal);
      return std::nullopt;
    }
    return removal;
  } catch (const Error& error) {
    why = error.what();
    return std::nullopt;
  }
}

// Runs the model that a removal leaves, by shapes alone where every operator can work without numbers; otherwise, and
// before anything is refused, for real. Where a view refuses the strides it is given now (one head left of several
// makes a transpose a mere renaming), it becomes a reshape. @return false when the removal was changed so
bool Chooser::checked(Removal& removal) const {
  if (has_shapes(removal)) return true;
  auto trial = model_;
  Rewriter rewriter(trial);
  apply_removal(rewriter, removal);
  try {
    check_run(trial, inputs_);
    return true;
  } catch (const Error& error) {
    const auto id = trial.graph().find(error.path());
    if (error.id() != "pare.run.105" || id == kNoNode || !trial.graph().node(id).is("aten::view")) throw;
    removal.replacements.push_back({id, "aten::reshape", trial.graph().node(id).operands});
    return false;
  }
}

bool Chooser::has_shapes(const Removal& removal) const {
  std::map<std::string, std::vector<std::int64_t>> sizes;
  for (const auto& [path, weight] : model_.weights()) sizes.emplace(path, weight.tensor.sizes().vec());
  for (const auto& weight : removal.weights)
    sizes.at(weight.path)[static_cast<std::size_t>(weight.dim)] = static_cast<std::int64_t>(weight.kept.size());
  try {
    auto trial = model_;
    Batch inputs;
    for (const auto& [path, weight] : model_.weights())
      trial.set_weight(path, at::empty(sizes.at(path), weight.tensor.options().device(at::kMeta)));
    for (const auto& input : inputs_) inputs.push_back(input.to(at::kMeta));
    Rewriter rewriter(trial);
    edit_graph(rewriter, removal);
    check_run(trial, inputs, only_shapes);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

Pruning Chooser::choose(const PruningSettings& settings) {
  for (;;) {
    if (candidates_.empty())
      fail("pare.prune.106", "", "the model has no channels that could be pruned ({}: {})",
           declined_.front().group->name, declined_.front().reason);
    const auto counts = select(candidates_, sizes_, settings);
    Pruning pruning;
    for (std::size_t c = 0; c < candidates_.size(); ++c) {
      const auto& order = candidates_[c].order;
      pruning.choices.push_back(
          {candidates_[c].group, {order.begin(), order.begin() + static_cast<std::ptrdiff_t>(counts[c])}});
    }
    std::string why;
    if (auto removal = plan(all_units(pruning.choices), why)) {
      pruning.removal = std::move(*removal);
      return pruning;
    }
    const auto stuck = refused(pruning.choices, [&](const auto& units) {
      std::string reason;
      return plan(units, reason) ? std::nullopt : std::optional(reason);
    });
    if (stuck.empty()) fail("pare.prune.108", "", "{}", why);
    for (auto it = stuck.rbegin(); it != stuck.rend(); ++it) {
      refuse_named(settings, *candidates_[it->first].group, it->second);
      declined_.push_back({candidates_[it->first].group, it->second});
      candidates_.erase(candidates_.begin() + static_cast<std::ptrdiff_t>(it->first));
    }
  }
}

PARE_NAMESPACE_END
