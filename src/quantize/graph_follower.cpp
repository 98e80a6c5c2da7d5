#include "graph_follower.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool writes_in_place(const c10::FunctionSchema& schema) {
  return !schema.arguments().empty() && schema.arguments()[0].alias_info() &&
         schema.arguments()[0].alias_info()->isWrite();
}

// `aten::add_.Tensor` -> `aten::add.Tensor`.
std::string pure_name(const c10::OperatorName& name, bool writes) {
  auto base = name.name;
  if (writes && base.ends_with('_')) base.pop_back();
  return name.overload_name.empty() ? base : base + "." + name.overload_name;
}

at::Tensor tensor_in(const c10::IValue& argument, std::size_t position) {
  if (argument.isTensor()) return argument.toTensor();
  if (!argument.isTensorList()) return {};
  const auto list = argument.toTensorList();
  return position < list.size() ? list.get(position) : at::Tensor();
}

// Whether an input of this type may be the tensor.
bool is_like(const at::Tensor& tensor, const TensorType& type) {
  if (tensor.scalar_type() != type.dtype || tensor.dim() != static_cast<std::int64_t>(type.rank())) return false;
  for (std::size_t d = 0; d < type.rank(); ++d)
    if (const auto size = type.sizes[d].constant(); size && *size != tensor.size(static_cast<std::int64_t>(d)))
      return false;
  return true;
}

template <class Visit>
void each_operand(const Node& node, Visit&& visit) {
  for (std::size_t i = 0; i < node.operands.size(); ++i) {
    std::size_t position = 0;
    node.operands[i].each_value([&](ValueId value) { visit(i, position++, value); });
  }
}

}  // namespace

GraphFollower::GraphFollower(const torch::nn::Module& module, Graph watched, TrainableQuantization training)
    : module_(module), watched_(std::move(watched)), training_(std::move(training)) {
  plan();
}

void GraphFollower::plan() {
  const auto& graph = training_.model().graph();
  const auto& placed = training_.graph();
  for (const auto& [path, weight] : training_.model().weights())
    if (const auto value = graph.weight(path); value != kNoValue && weight.tensor.defined())
      parameters_.emplace(index(value), weight.tensor.unsafeGetTensorImpl());
  for (const auto id : watched_.nodes()) nodes_[watched_.node(id).op.name()].push_back(id);
  std::vector<NodeId> inserted;
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    inserted.push_back(id);
    if (watched_.contains(id)) {
      if (inserted.size() > 1) written_out_.emplace(index(id), inserted);
      inserted.clear();
    }
    if (!placed.contains(id)) continue;
    const auto& twin = placed.node(id);
    for (std::size_t i = 0; i < std::min(node.operands.size(), twin.operands.size()); ++i) {
      std::size_t position = 0;
      twin.operands[i].each_value([&](ValueId value) {
        const auto at = position++;
        const auto* producer = placed.producer(value);
        const bool is_new = producer && !graph.contains(producer->id);
        if (is_new && training_.is_rounded(value)) rounded_[index(id)].push_back({i, at, value});
      });
    }
  }
}

bool GraphFollower::is_bound(const at::Tensor& tensor, ValueId value) const {
  const auto found = bound_.find(tensor.unsafeGetTensorImpl());
  return found != bound_.end() && std::ranges::find(found->second.values, value) != found->second.values.end();
}

// How many operands are known to be the tensors at hand; -1: one is another.
int GraphFollower::fit(const Node& node, const c10::IValue* arguments) const {
  int known = 0;
  bool fits = true, reads_input = false, reads_unknown = false;
  each_operand(node, [&](std::size_t operand, std::size_t position, ValueId value) {
    const auto tensor = fits ? tensor_in(arguments[operand], position) : at::Tensor();
    if (!tensor.defined()) {
      fits = false;
      return;
    }
    const auto& held = watched_.value(value);
    if (held.kind == ValueKind::Weight) {
      const auto parameter = parameters_.find(index(value));
      const bool same = parameter != parameters_.end() && parameter->second == tensor.unsafeGetTensorImpl();
      // Constants of the forward are made anew by every call of it.
      if (!same && training_.model().weights().at(held.name).is_parameter) fits = false;
      if (same) known += 2;
    } else if (is_bound(tensor, value)) {
      known += 1;
    } else if (bound_.contains(tensor.unsafeGetTensorImpl()) && !visited_.contains(index(node.id))) {
      fits = false;
    } else if (held.kind == ValueKind::Input) {
      reads_input = true;
      fits = is_like(tensor, held.type);
    } else {
      reads_unknown = true;
    }
  });
  if (!fits) return -1;
  // With nothing known, a call may still begin a forward: then inputs are all that it reads.
  return known > 0 || (reads_input && !reads_unknown) ? known : -1;
}

NodeId GraphFollower::find(const std::string& name, const torch::jit::Stack& stack, std::size_t count) const {
  const auto candidates = nodes_.find(name);
  if (candidates == nodes_.end()) return kNoNode;
  const auto* arguments = stack.data() + (stack.size() - count);
  NodeId best = kNoNode;
  int score = -1;
  for (const auto id : candidates->second) {
    const auto& node = watched_.node(id);
    if (node.operands.size() != count) continue;
    const auto known = 2 * fit(node, arguments) + (visited_.contains(index(id)) ? 0 : 1);
    if (known < 0 || known <= score) continue;
    best = id;
    score = known;
  }
  return best;
}

void GraphFollower::bind(const at::Tensor& tensor, ValueId value, bool written) {
  if (!tensor.defined()) return;
  const auto* impl = tensor.unsafeGetTensorImpl();
  const auto [entry, fresh] = bound_.try_emplace(impl, Bound{WeakTensor(tensor.getIntrusivePtr()), {}});
  if (written) entry->second.values.clear();
  entry->second.values.push_back(value);
}

// A node that comes again begins another forward.
void GraphFollower::start(NodeId node) {
  if (visited_.contains(index(node))) {
    visited_.clear();
    bound_.clear();
    done_.clear();
    stepped_ = false;
  }
  visited_.insert(index(node));
  training_.set_training(module_.is_training());
}

at::Tensor GraphFollower::rounded_value(ValueId value, const at::Tensor& tensor) {
  if (const auto found = done_.find(index(value)); found != done_.end()) {
    const auto read = found->second.read.lock();
    if (auto made = found->second.made.lock(); made && read.get() == tensor.unsafeGetTensorImpl())
      return at::Tensor(std::move(made));
    done_.erase(found);
  }
  if (!stepped_ && training_.is_training() && at::GradMode::is_enabled()) training_.begin_step();
  stepped_ = true;
  auto made = training_.simulate(value, tensor);
  done_.emplace(index(value), Done{WeakTensor(tensor.getIntrusivePtr()), WeakTensor(made.getIntrusivePtr()),
                                   made.requires_grad() ? at::Tensor() : made});
  return made;
}

void GraphFollower::call_node(const Node& node, const std::vector<Rounded>& rounded, const c10::OperatorHandle& op,
                              torch::jit::Stack& stack, bool writes) {
  const auto first = stack.size() - node.operands.size();
  at::Tensor target;
  for (const auto& one : rounded) {
    auto& argument = stack[first + one.operand];
    const auto tensor = tensor_in(argument, one.position);
    if (!tensor.defined() || !tensor.is_floating_point()) continue;
    if (writes && one.operand == 0) {
      // Not into the rounded copy: the caller goes on with the tensor that it gave.
      target = tensor;
      argument = rounded_value(one.value, target.clone());
    } else if (argument.isTensor()) {
      argument = rounded_value(one.value, tensor);
    } else {
      auto list = argument.toTensorList().copy();
      list.set(one.position, rounded_value(one.value, tensor));
      argument = std::move(list);
    }
  }
  if (!target.defined()) {
    op.callBoxed(stack);
    return;
  }
  node.op.handle().callBoxed(stack);
  stack.back() = target.copy_(stack.back().toTensor());
}

const std::vector<GraphFollower::Rounded>& GraphFollower::rounded_operands(NodeId node) const {
  static const std::vector<Rounded> none;
  const auto found = rounded_.find(index(node));
  return found == rounded_.end() ? none : found->second;
}

// One call of the forward, in the steps that it was written out as.
void GraphFollower::call_written_out(const Node& node, const std::vector<NodeId>& steps, torch::jit::Stack& stack) {
  const auto first = stack.size() - node.operands.size();
  std::unordered_map<std::size_t, at::Tensor> values;
  each_operand(node, [&](std::size_t operand, std::size_t position, ValueId value) {
    values[index(value)] = tensor_in(stack[first + operand], position);
  });
  for (const auto id : steps) {
    const auto& step = training_.model().graph().node(id);
    visited_.insert(index(id));
    std::unordered_map<std::size_t, at::Tensor> rounded;
    for (const auto& one : rounded_operands(id)) {
      const auto read = index(step.input(one.operand));
      rounded.emplace(read, rounded_value(one.value, values.at(read)));
    }
    auto results = Interpreter::call(step, {}, training_.is_training(), [&](ValueId value) {
      const auto found = rounded.find(index(value));
      return found != rounded.end() ? found->second : values.at(index(value));
    });
    values[index(step.output())] = std::move(results.front());
  }
  stack.resize(first);
  stack.emplace_back(values.at(index(node.output())));
}

void GraphFollower::forward_call(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  const auto& schema = op.schema();
  const auto count = schema.arguments().size();
  const bool writes = writes_in_place(schema);
  const auto id = find(pure_name(schema.operator_name(), writes), stack, count);
  if (id == kNoNode) {
    op.callBoxed(stack);
    return;
  }
  start(id);
  const auto& node = watched_.node(id);
  const auto first = stack.size() - count;
  each_operand(node, [&](std::size_t operand, std::size_t position, ValueId value) {
    if (watched_.value(value).kind != ValueKind::Input) return;
    const auto tensor = tensor_in(stack[first + operand], position);
    if (tensor.defined() && !is_bound(tensor, value)) bind(tensor, value, false);
  });
  if (const auto steps = written_out_.find(index(id)); steps != written_out_.end()) {
    call_written_out(node, steps->second, stack);
  } else {
    call_node(node, rounded_operands(id), op, stack, writes);
  }
  std::size_t output = 0;
  for (auto i = first; i < stack.size(); ++i) {
    if (stack[i].isTensor()) {
      if (output < node.outputs.size()) bind(stack[i].toTensor(), node.outputs[output], writes);
      ++output;
    } else if (stack[i].isTensorList()) {
      for (const at::Tensor& tensor : stack[i].toTensorVector()) {
        if (output < node.outputs.size()) bind(tensor, node.outputs[output], writes);
        ++output;
      }
    }
  }
}

std::string GraphFollower::missed() const {
  const auto& graph = training_.model().graph();
  for (const auto& [node, rounded] : rounded_) {
    const NodeId id{static_cast<std::uint32_t>(node)};
    if (graph.node(id).condition != Condition::Training && !visited_.contains(node)) return graph.node(id).name;
  }
  return {};
}

PARE_NAMESPACE_END
