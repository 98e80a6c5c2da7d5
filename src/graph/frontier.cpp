#include "graph/frontier.hpp"

#include <limits>

#include "pare/graph/interpreter.hpp"
#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

Frontier::Frontier(Model model, const std::vector<Batch>& batches) : model_(std::move(model)) {
  const auto& graph = model_.graph();
  last_use_.assign(graph.value_count(), 0);
  for (std::size_t i = 0; i < graph.nodes().size(); ++i)
    for (const auto& operand : graph.node(graph.nodes()[i]).operands)
      operand.each_value([&](ValueId value) { last_use_[index(value)] = i; });
  for (const auto output : graph.outputs())
    if (output != kNoValue) last_use_[index(output)] = std::numeric_limits<std::size_t>::max();
  shared_.assign(graph.value_count(), false);
  for (std::size_t i = 0; i < shared_.size(); ++i)
    shared_[i] = graph.value(ValueId{static_cast<std::uint32_t>(i)}).kind == ValueKind::Weight;
  for (const auto& batch : batches) {
    Run run{std::vector<at::Tensor>(graph.value_count()), Interpreter::bind_dims(graph, batch)};
    for (std::size_t i = 0; i < batch.size(); ++i) run.values[index(graph.inputs()[i])] = batch[i];
    runs_.push_back(std::move(run));
  }
}

// Fake-quantized weights and the views around them: computed once for all batches.
bool Frontier::is_shared(const Node& node) const {
  const auto family = family_of(node.op);
  if (family != OpFamily::FakeQuantize && family != OpFamily::PassThrough) return false;
  bool shared = true, any = false;
  for (const auto& operand : node.operands) {
    operand.each_value([&](ValueId value) {
      any = true;
      shared = shared && shared_[index(value)];
    });
    if (const auto* sizes = operand.get<Operand::Ints>())
      for (const auto& size : *sizes) shared = shared && size.constant().has_value();
    if (const auto* size = operand.get<SymbolicInt>()) shared = shared && size->constant().has_value();
  }
  return any && shared;
}

void Frontier::step(const Model& model, NodeId id) {
  const auto& graph = model_.graph();
  const auto& node = graph.node(id);
  if (node.condition == Condition::Training) return;
  const bool shared = is_shared(node);
  std::vector<at::Tensor> results;
  for (auto& run : runs_) {
    if (!shared || &run == &runs_.front())
      results = Interpreter::call(node, run.dims, /*training=*/false, [&](ValueId value) -> at::Tensor {
        if (graph.value(value).kind == ValueKind::Weight) return model.weight(value);
        return run.values[index(value)];
      });
    for (std::size_t i = 0; i < node.outputs.size() && i < results.size(); ++i) {
      run.values[index(node.outputs[i])] = results[i];
      shared_[index(node.outputs[i])] = shared;
    }
    if (!shared) results.clear();
    for (const auto& operand : node.operands)
      operand.each_value([&](ValueId value) {
        if (last_use_[index(value)] == position_) run.values[index(value)] = at::Tensor();
      });
  }
}

void Frontier::advance(const Model& model, NodeId until) {
  const at::NoGradGuard no_grad;
  const auto& order = model_.graph().nodes();
  for (; position_ < order.size() && order[position_] != until; ++position_) step(model, order[position_]);
}

void Frontier::repeat(const Model& model, const std::vector<NodeId>& nodes) {
  if (runs_.empty()) return;
  const at::NoGradGuard no_grad;
  const auto& graph = model_.graph();
  for (const auto id : nodes) {
    const auto& node = graph.node(id);
    const auto results = Interpreter::call(node, runs_.front().dims, /*training=*/false, [&](ValueId value) {
      return graph.value(value).kind == ValueKind::Weight ? model.weight(value) : runs_.front().values[index(value)];
    });
    for (auto& run : runs_)
      for (std::size_t i = 0; i < node.outputs.size() && i < results.size(); ++i)
        run.values[index(node.outputs[i])] = results[i];
  }
}

std::vector<std::vector<at::Tensor>> Frontier::finish(const Model& model) {
  advance(model, kNoNode);
  std::vector<std::vector<at::Tensor>> outputs;
  for (const auto& run : runs_) {
    outputs.emplace_back();
    for (const auto output : model_.graph().outputs())
      outputs.back().push_back(output == kNoValue                                       ? at::Tensor()
                               : model_.graph().value(output).kind == ValueKind::Weight ? model.weight(output)
                                                                                        : run.values[index(output)]);
  }
  return outputs;
}

PARE_NAMESPACE_END
