#include "capture/commit_changes.hpp"

#include <ATen/Functions.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "capture/module_state.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

const Weight* find_weight(const Weights& weights, const ModuleTensors::Entry& entry) {
  if (const auto found = weights.find(entry.path); found != weights.end()) return &found->second;
  for (const auto& alias : entry.aliases)
    if (const auto found = weights.find(alias); found != weights.end()) return &found->second;
  return nullptr;
}

std::string text_of(at::IntArrayRef sizes) { return fmt::format("[{}]", fmt::join(sizes, ", ")); }

Change plan_change(const ModuleTensors::Entry& entry, const Weight& weight) {
  Change change{entry.path, entry.tensor, {}, {}};
  if (weight.tensor.is_same(entry.tensor)) return change;
  if (weight.tensor.scalar_type() != entry.tensor.scalar_type() || weight.tensor.device() != entry.tensor.device())
    fail("pare.commit.102", entry.path, "the module has it as {} on {}, the model as {} on {}",
         c10::toString(entry.tensor.scalar_type()), entry.tensor.device().str(),
         c10::toString(weight.tensor.scalar_type()), weight.tensor.device().str());
  auto sizes = entry.tensor.sizes().vec();
  for (const auto& step : weight.narrowings) {
    const auto dim = static_cast<std::size_t>(step.dim);
    const bool fits = dim < sizes.size() && std::ranges::all_of(step.kept, [&](auto i) { return i < sizes[dim]; });
    if (!fits) {
      sizes.clear();
      break;
    }
    sizes[dim] = static_cast<std::int64_t>(step.kept.size());
  }
  if (at::IntArrayRef(sizes) != weight.tensor.sizes())
    fail("pare.commit.102", entry.path,
         "the module has it as {}, which is not what the model's {} was made from; capture the module as it is now",
         text_of(entry.tensor.sizes()), text_of(weight.tensor.sizes()));
  change.next = weight.tensor.detach().clone();
  change.narrowings = weight.narrowings;
  return change;
}

// set_data keeps a gradient accumulator that a graph still alive holds on to, shape and all; only another type of data
// makes it go.
void replace_data(const at::Tensor& live, const at::Tensor& data) {
  auto target = live;
  const auto other = live.scalar_type() == at::kDouble ? at::kFloat : at::kDouble;
  if (live.is_leaf() && live.requires_grad()) target.set_data(at::empty({0}, data.options().dtype(other)));
  target.set_data(data);
}

}  // namespace

void undo_all(UndoSteps& undo) {
  for (auto step = undo.rbegin(); step != undo.rend(); ++step) (*step)();
  undo.clear();
}

std::vector<Change> plan_changes(const Model& model, torch::nn::Module& module) {
  std::vector<Change> changes;
  std::set<const Weight*> placed;
  for (const auto& entry : module_tensors(module).entries) {
    const auto* weight = find_weight(model.weights(), entry);
    if (!weight) {
      changes.push_back({entry.path, entry.tensor, {}, {}});  // the forward never reads it
      continue;
    }
    placed.insert(weight);
    changes.push_back(plan_change(entry, *weight));
  }
  for (const auto& [path, weight] : model.weights()) {
    if (placed.contains(&weight)) continue;
    if (!weight.narrowings.empty())
      fail("pare.commit.104", path,
           "it was narrowed, and is neither a parameter nor a buffer of the module: register it, or leave the channels "
           "that it depends on alone");
    if (weight.is_parameter)
      fail("pare.commit.102", path, "the module has no such parameter: this model was captured from another one");
  }
  return changes;
}

// Only what the module's own forward does can be written back to it.
void require_same_graph(const Graph& captured, const Graph& now) {
  for (const auto id : now.nodes()) {
    const auto& node = now.node(id);
    if (!captured.contains(id))
      fail("pare.commit.103", node.name, "the model has a {} here that the module's forward has not", node.op.name());
    const auto& before = captured.node(id);
    if (!(node.op == before.op))
      fail("pare.commit.103", node.name, "the model calls {} where the module's forward calls {}", node.op.name(),
           before.op.name());
    for (std::size_t i = 0; i < node.operands.size(); ++i) {
      std::vector<ValueId> a, b;
      node.operands[i].each_value([&](ValueId value) { a.push_back(value); });
      before.operands[i].each_value([&](ValueId value) { b.push_back(value); });
      if (a != b)
        fail("pare.commit.103", node.name,
             "its input comes from elsewhere than in the module's forward: a layer was removed, "
             "folded or put in between");
    }
  }
  if (now.outputs() != captured.outputs())
    fail("pare.commit.103", "", "the model's outputs are not those of the module's forward");
}

void replace_tensors(const std::vector<Change>& changes, UndoSteps& undo) {
  for (const auto& change : changes) {
    if (!change.next.defined()) continue;
    undo.push_back([live = change.live, data = change.live.detach(), gradient = change.live.grad()] {
      const at::NoGradGuard no_grad;
      replace_data(live, data);
      live.mutable_grad() = gradient;
    });
    if (change.live.grad().defined()) change.live.mutable_grad() = at::Tensor();
    replace_data(change.live, change.next);
  }
}

void remember_tensors(const std::vector<Change>& changes, UndoSteps& undo) {
  for (const auto& change : changes) {
    if (change.next.defined()) continue;
    const auto gradient = change.live.grad();
    undo.push_back([live = change.live, copy = change.live.detach().clone(), gradient,
                    slope = gradient.defined() ? gradient.detach().clone() : gradient] {
      const at::NoGradGuard no_grad;
      live.variable_data().copy_(copy);
      if (gradient.defined()) gradient.copy_(slope);  // training adds to it in place
      if (!live.grad().is_same(gradient)) live.mutable_grad() = gradient;
    });
  }
}

ParameterEdits parameter_edits(const std::vector<Change>& changes) {
  ParameterEdits edits;
  for (const auto& change : changes)
    if (!change.narrowings.empty())
      edits.emplace(change.live.unsafeGetTensorImpl(),
                    ParameterEdit{change.path, change.live.sizes().vec(), change.narrowings});
  return edits;
}

PARE_NAMESPACE_END
