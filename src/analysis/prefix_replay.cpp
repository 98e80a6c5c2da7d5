#include "pare/analysis/prefix_replay.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "core/samples_of.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool is_symbolic(const Operand& operand) {
  if (const auto* one = operand.get<SymbolicInt>()) return !one->is_constant();
  const auto* many = operand.get<Operand::Ints>();
  return many && std::ranges::any_of(*many, [](const SymbolicInt& entry) { return !entry.is_constant(); });
}

// Runs a node; the results go where `store` puts them.
void call(const Node& node, const std::vector<std::int64_t>& dims, const std::function<at::Tensor(ValueId)>& find,
          std::vector<at::Tensor>& store) {
  auto results = Interpreter::call(node, dims, false, find);
  for (std::size_t i = 0; i < node.outputs.size(); ++i) store[index(node.outputs[i])] = std::move(results[i]);
}

// Batches side by side where each thread gets several: one thread for each computes a small batch faster than all for
// one after the other.
void each_batch(std::size_t count, const std::function<void(std::size_t)>& visit) {
  constexpr int kBatchesOfThread = 2;
  const auto end = static_cast<std::int64_t>(count);
  const auto some = [&](std::int64_t from, std::int64_t to) {
    const at::NoGradGuard no_grad;  // of a thread
    for (auto i = from; i < to; ++i) visit(static_cast<std::size_t>(i));
  };
  if (end < std::int64_t{kBatchesOfThread} * at::get_num_threads()) return some(0, end);
  at::parallel_for(0, end, 1, some);
}

}  // namespace

PrefixReplay::PrefixReplay(const Model& model, const Batches& batches, const Replacements& around) : model_(model) {
  const at::NoGradGuard no_grad;
  model_.eval();
  find_constants(around);
  const auto& graph = model_.graph();
  std::vector<std::size_t> last(graph.value_count(), 0);
  last_use_.resize(nodes_.size());
  for (std::size_t i = 0; i < nodes_.size(); ++i)
    for (const auto& operand : graph.node(nodes_[i]).operands)
      operand.each_value([&](ValueId value) { last[index(value)] = i + 1; });
  for (const auto output : graph.outputs())
    if (output != kNoValue) last[index(output)] = 0;
  for (std::size_t v = 0; v < last.size(); ++v)
    if (last[v] > 0) last_use_[last[v] - 1].push_back(ValueId{static_cast<std::uint32_t>(v)});
  for (const auto& batch : batches) {
    State state{Interpreter::bind_dims(graph, batch), std::vector<at::Tensor>(graph.value_count())};
    for (std::size_t i = 0; i < batch.size(); ++i) state.values[index(graph.inputs()[i])] = batch[i];
    samples_.push_back(samples_of(batch));
    states_.push_back(std::move(state));
  }
}

void PrefixReplay::find_constants(const Replacements& around) {
  const auto& graph = model_.graph();
  constants_.resize(graph.value_count());
  std::vector<bool> constant(graph.value_count(), false);
  for (std::size_t i = 0; i < graph.value_count(); ++i) {
    const ValueId value{static_cast<std::uint32_t>(i)};
    if (graph.value(value).kind != ValueKind::Weight || graph.uses(value).empty()) continue;
    constant[i] = true;
    constants_[i] = model_.weight(value).detach();
  }
  const auto settle = [&](std::size_t value) {
    if (const auto found = around.find(value); found != around.end()) constants_[value] = found->second;
  };
  for (std::size_t i = 0; i < constants_.size(); ++i) settle(i);
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (node.condition == Condition::Training) continue;
    bool reads = false, fixed = !node.barrier && node.guard.isNone();
    for (const auto& operand : node.operands) {
      fixed = fixed && !is_symbolic(operand);
      operand.each_value([&](ValueId value) {
        reads = true;
        fixed = fixed && constant[index(value)];
      });
    }
    if (!fixed || !reads) {
      nodes_.push_back(id);
      continue;
    }
    constant_nodes_.push_back(id);
    call(
        node, {}, [&](ValueId value) { return constants_[index(value)]; }, constants_);
    for (const auto output : node.outputs) {
      constant[index(output)] = true;
      settle(index(output));
    }
  }
}

void PrefixReplay::run(std::size_t step, State& state, const std::vector<at::Tensor>& constants) const {
  const auto find = [&](ValueId value) -> at::Tensor {
    const auto& held = state.values[index(value)];
    return held.defined() ? held : constants[index(value)];
  };
  call(model_.graph().node(nodes_[step]), state.dims, find, state.values);
  for (const auto value : last_use_[step]) state.values[index(value)] = at::Tensor();
}

void PrefixReplay::advance(NodeId node) {
  const at::NoGradGuard no_grad;
  const auto found = std::ranges::find(nodes_, node);
  if (found == nodes_.end()) return;
  const auto target = static_cast<std::size_t>(found - nodes_.begin());
  each_batch(states_.size(), [&](std::size_t i) {
    for (auto step = position_; step < target; ++step) run(step, states_[i], constants_);
  });
  position_ = std::max(position_, target);
}

BatchOutputs PrefixReplay::outputs(const Replacements& replaced) const {
  const at::NoGradGuard no_grad;
  const auto& graph = model_.graph();
  auto constants = constants_;
  std::vector<bool> changed(graph.value_count(), false);
  for (const auto& [value, tensor] : replaced) {
    constants[value] = tensor;
    changed[value] = true;
  }
  for (const auto id : constant_nodes_) {
    const auto& node = graph.node(id);
    bool stale = false;
    for (const auto& operand : node.operands)
      operand.each_value([&](ValueId value) { stale = stale || changed[index(value)]; });
    if (!stale || std::ranges::any_of(node.outputs, [&](ValueId v) { return replaced.contains(index(v)); })) continue;
    call(
        node, {}, [&](ValueId value) { return constants[index(value)]; }, constants);
    for (const auto output : node.outputs) changed[index(output)] = true;
  }
  BatchOutputs result(states_.size());
  each_batch(states_.size(), [&](std::size_t i) {
    auto state = states_[i];
    for (const auto& [value, tensor] : replaced)
      if (state.values[value].defined()) state.values[value] = tensor;
    for (auto step = position_; step < nodes_.size(); ++step) run(step, state, constants);
    for (const auto output : graph.outputs()) {
      const auto held = output == kNoValue ? at::Tensor() : state.values[index(output)];
      result[i].push_back(held.defined() || output == kNoValue ? held : constants[index(output)]);
    }
  });
  return result;
}

NodeId PrefixReplay::first_reader(const Replacements& replaced) const {
  const auto& graph = model_.graph();
  std::vector<bool> changed(graph.value_count(), false);
  for (const auto& [value, tensor] : replaced) changed[value] = true;
  const auto reads = [&](NodeId id) {
    bool found = false;
    for (const auto& operand : graph.node(id).operands)
      operand.each_value([&](ValueId value) { found = found || changed[index(value)]; });
    return found;
  };
  for (const auto id : constant_nodes_)
    if (reads(id))
      for (const auto output : graph.node(id).outputs) changed[index(output)] = true;
  const auto found = std::ranges::find_if(nodes_, reads);
  return found == nodes_.end() ? kNoNode : *found;
}

PARE_NAMESPACE_END
