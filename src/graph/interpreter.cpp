#include "pare/graph/interpreter.hpp"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "graph/replaying.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

thread_local int replays = 0;

struct Replay {
  Replay() { ++replays; }
  ~Replay() { --replays; }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;
};

using Lookup = std::function<at::Tensor(ValueId)>;

bool is_variable(const Operand& operand) {
  if (const auto* integer = operand.get<SymbolicInt>()) return !integer->is_constant();
  if (const auto* integers = operand.get<Operand::Ints>()) {
    for (const auto& entry : *integers)
      if (!entry.is_constant()) return true;
    return false;
  }
  if (const auto* flag = operand.get<Flag>()) return *flag == Flag::Training || *flag == Flag::Evaluation;
  return operand.get<ValueId>() || operand.get<Operand::Values>();
}

template <class Find>
c10::IValue box_values(const Operand::Values& values, const c10::TypePtr& type, const Find& find) {
  const auto list_type = type->castRaw<c10::ListType>();
  const bool optional = list_type && list_type->getElementType()->kind() == c10::TypeKind::OptionalType;
  if (optional) {
    c10::List<std::optional<at::Tensor>> list;
    for (const auto value : values)
      list.push_back(value == kNoValue ? std::nullopt : std::optional<at::Tensor>(find(value)));
    return list;
  }
  c10::List<at::Tensor> list;
  list.reserve(values.size());
  for (const auto value : values) list.push_back(find(value));
  return list;
}

// One operand as the dispatcher takes it.
template <class Find>
c10::IValue box(const Operand& operand, const c10::TypePtr& type, std::span<const std::int64_t> dims, bool training,
                const Find& find) {
  struct Visitor {
    const c10::TypePtr& type;
    std::span<const std::int64_t> dims;
    bool training;
    const Find& find;
    c10::IValue operator()(std::monostate) const { return {}; }
    c10::IValue operator()(ValueId value) const {
      const at::Tensor& tensor = find(value);
      return tensor.defined() ? c10::IValue(tensor) : c10::IValue();
    }
    c10::IValue operator()(const Operand::Values& values) const { return box_values(values, type, find); }
    c10::IValue operator()(Flag flag) const {
      return flag == Flag::Training ? training : flag == Flag::Evaluation ? !training : flag == Flag::True;
    }
    c10::IValue operator()(const SymbolicInt& integer) const { return integer.evaluate(dims); }
    c10::IValue operator()(const Operand::Ints& integers) const {
      c10::List<std::int64_t> list;
      list.reserve(integers.size());
      for (const auto& entry : integers) list.push_back(entry.evaluate(dims));
      return list;
    }
    c10::IValue operator()(double number) const { return number; }
    c10::IValue operator()(const Operand::Doubles& numbers) const { return c10::IValue(numbers); }
    c10::IValue operator()(const Operand::Bools& flags) const {
      c10::List<bool> list;
      for (const bool flag : flags) list.push_back(flag);
      return list;
    }
    c10::IValue operator()(const std::string& text) const { return text; }
    c10::IValue operator()(const c10::IValue& other) const { return other; }
  };
  return std::visit(Visitor{type, dims, training, find}, operand.storage());
}

std::string first_line(const char* text) {
  const std::string all(text);
  return all.substr(0, all.find('\n'));
}

bool same_result(const c10::IValue& seen, const c10::IValue& recorded) {
  if (seen.isDouble() && recorded.isDouble()) return seen.toDouble() == recorded.toDouble();
  if (seen.isInt() && recorded.isInt()) return seen.toInt() == recorded.toInt();
  if (seen.isBool() && recorded.isBool()) return seen.toBool() == recorded.toBool();
  return false;
}

void check_guard(const Node& node, const std::vector<c10::IValue>& stack) {
  if (node.guard.isNone()) return;
  if (stack.empty() || !same_result(stack.front(), node.guard))
    fail("pare.run.106", node.name,
         "{} read another result from a tensor than at capture, so the module would take another path; capture it "
         "again with inputs like these, or run the module itself",
         node.op.name());
}

void call_op(const Node& node, const c10::OperatorHandle& op, std::vector<c10::IValue>& stack) {
  try {
    op.callBoxed(&stack);
  } catch (const Error&) {
    throw;
  } catch (const c10::Error& error) {
    fail("pare.run.105", node.name, "{} failed: {}", node.op.name(), first_line(error.what_without_backtrace()));
  } catch (const std::exception& error) {  // of the libraries that LibTorch's kernels call
    fail("pare.run.105", node.name, "{} failed: {}", node.op.name(), first_line(error.what()));
  }
}

// Hands the flat results to `store(position, tensor)`.
template <class Store>
void unbox_results(const Node& node, std::vector<c10::IValue>& stack, const Store& store) {
  std::size_t position = 0;
  for (auto& result : stack) {
    if (result.isTensor()) {
      store(position++, std::move(result).toTensor());
    } else if (result.isTensorList()) {
      const auto tensors = result.toTensorVector();
      if (tensors.size() != node.outputs.size())
        fail("pare.run.105", node.name, "{} returned {} tensors where capture saw {}", node.op.name(), tensors.size(),
             node.outputs.size());
      for (const auto& tensor : tensors) store(position++, tensor);
    } else if (result.isNone()) {
      store(position++, at::Tensor());
    }
  }
}

// The operator that writes its result over the first operand, where there is one and the result has that operand's
// type.
std::optional<c10::OperatorHandle> in_place_twin(const Graph& graph, const Node& node) {
  if (node.outputs.size() != 1 || node.operands.empty() || !node.operands[0].get<ValueId>()) return std::nullopt;
  const auto& first = graph.value(node.input(0));
  if (first.kind != ValueKind::Result || first.type != graph.value(node.output()).type) return std::nullopt;
  std::size_t reads = 0;
  for (const auto& operand : node.operands) operand.each_value([&](ValueId value) { reads += value == first.id; });
  if (reads != 1) return std::nullopt;
  const auto& schema = node.op.schema();
  auto twin = c10::Dispatcher::singleton().findSchema({schema.name() + "_", schema.overload_name()});
  if (!twin || twin->schema().arguments().size() != schema.arguments().size()) return std::nullopt;
  const auto* alias = twin->schema().arguments()[0].alias_info();
  if (!alias || !alias->isWrite() || twin->schema().returns().size() != 1) return std::nullopt;
  return twin;
}

// Whether a tensor's memory is held by nothing but the reference given and has a place for every element.
bool is_free(const at::Tensor& tensor) {
  return tensor.defined() && !at::GradMode::is_enabled() && tensor.use_count() == 1 && tensor.has_storage() &&
         tensor.storage().use_count() == 1 && tensor.is_non_overlapping_and_dense();
}

void check_input(const Graph& graph, const Value& value, const at::Tensor& tensor) {
  if (!tensor.defined()) {
    if (!graph.uses(value.id).empty())
      fail("pare.run.101", value.name, "this input was given at capture and is missing now");
    return;
  }
  if (tensor.scalar_type() != value.type.dtype)
    fail("pare.run.102", value.name, "expected dtype {}, got {}", c10::toString(value.type.dtype),
         c10::toString(tensor.scalar_type()));
  if (tensor.dim() != static_cast<std::int64_t>(value.type.rank()))
    fail("pare.run.103", value.name, "expected {} dimensions, got {}", value.type.rank(), tensor.dim());
}

}  // namespace

bool replaying() noexcept { return replays > 0; }

Interpreter::Interpreter(const Graph& graph) {
  const auto nothing = [](ValueId) -> at::Tensor { return {}; };
  std::vector<std::size_t> last(graph.value_count(), 0);
  std::size_t position = 0;
  for (const auto id : graph.nodes()) {
    ++position;
    for (const auto& operand : graph.node(id).operands)
      operand.each_value([&](ValueId value) { last[index(value)] = position; });
    for (const auto output : graph.node(id).outputs) last[index(output)] = position;
  }
  for (const auto output : graph.outputs())
    if (output != kNoValue) last[index(output)] = 0;  // kept to the end
  position = 0;
  for (const auto id : graph.nodes()) {
    ++position;
    const auto& node = graph.node(id);
    const auto& arguments = node.op.schema().arguments();
    Step step;
    for (std::size_t i = 0; i < node.operands.size(); ++i) {
      const bool variable = is_variable(node.operands[i]);
      if (variable) step.variable.push_back(i);
      step.constants.push_back(variable ? c10::IValue()
                                        : box(node.operands[i], arguments[i].real_type(), {}, false, nothing));
    }
    const auto release = [&](ValueId value) {
      if (last[index(value)] == position) step.last_use.push_back(value);
    };
    for (const auto& operand : node.operands) operand.each_value(release);
    for (const auto output : node.outputs) release(output);
    if (std::ranges::count(step.last_use, node.operands.empty() ? kNoValue : node.input(0)) > 0)
      step.in_place = in_place_twin(graph, node);
    steps_.push_back(std::move(step));
  }
  for (std::size_t i = 0; i < graph.value_count(); ++i) {
    const ValueId id{static_cast<std::uint32_t>(i)};
    if (graph.value(id).kind == ValueKind::Weight && (last[i] > 0 || !graph.uses(id).empty())) weights_.push_back(id);
  }
}

std::vector<std::int64_t> Interpreter::bind_dims(const Graph& graph, const std::vector<at::Tensor>& inputs) {
  constexpr std::int64_t kUnknown = -1;
  if (inputs.size() != graph.inputs().size())
    fail("pare.run.101", "", "expected {} inputs, got {}", graph.inputs().size(), inputs.size());
  std::vector<std::int64_t> dims(graph.dims().size(), kUnknown);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto& value = graph.value(graph.inputs()[i]);
    check_input(graph, value, inputs[i]);
    if (!inputs[i].defined()) continue;
    for (std::size_t d = 0; d < value.type.rank(); ++d) {
      const auto& size = value.type.sizes[d];
      const auto actual = inputs[i].size(static_cast<std::int64_t>(d));
      const bool plain_dim = size.terms().size() == 1 && size.terms()[0].dims.size() == 1 && size.offset() == 0 &&
                             size.terms()[0].coefficient == 1 && size.divisor() == 1;
      if (plain_dim && dims[size.terms()[0].dims[0]] == kUnknown) {
        dims[size.terms()[0].dims[0]] = actual;
      } else if (size.is_constant() && *size.constant() != actual) {
        fail("pare.run.103", value.name, "dimension {} is fixed to {} by the capture, got {}", d, *size.constant(),
             actual);
      }
    }
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto& value = graph.value(graph.inputs()[i]);
    for (std::size_t d = 0; inputs[i].defined() && d < value.type.rank(); ++d)
      if (const auto expected = value.type.sizes[d].evaluate(dims);
          expected != inputs[i].size(static_cast<std::int64_t>(d)))
        fail("pare.run.104", value.name, "dimension {} ({}) must be {} here, got {}", d,
             value.type.sizes[d].text(graph.dims()), expected, inputs[i].size(static_cast<std::int64_t>(d)));
  }
  for (std::size_t d = 0; d < dims.size(); ++d)
    if (dims[d] != kUnknown && dims[d] < graph.smallest_dims()[d])
      fail("pare.run.108", graph.dims()[d],
           "must be at least {}, got {}: below that the module does something else than what was captured",
           graph.smallest_dims()[d], dims[d]);
  return dims;
}

std::vector<at::Tensor> Interpreter::run(const Graph& graph, const Weights& weights, bool training,
                                         const std::vector<at::Tensor>& inputs, const Tap& tap,
                                         const NodeOverride& override_node) const {
  const Replay replay;
  const auto dims = bind_dims(graph, inputs);
  std::vector<at::Tensor> values(graph.value_count());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    values[index(graph.inputs()[i])] = inputs[i];
    if (tap && inputs[i].defined()) tap(graph.inputs()[i], inputs[i]);
  }
  for (const auto id : weights_) {
    const auto found = weights.find(graph.value(id).name);
    if (found == weights.end()) fail("pare.graph.104", graph.value(id).name, "the weight table has no such tensor");
    values[index(id)] = found->second.tensor;
  }
  const auto find = [&](ValueId value) -> const at::Tensor& { return values[index(value)]; };
  std::vector<c10::IValue> stack;
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const auto& node = graph.node(graph.nodes()[i]);
    const auto& step = steps_[i];
    const bool skipped = node.condition != Condition::Always && (node.condition == Condition::Training) != training;
    if (!skipped) {
      const bool in_place = step.in_place && is_free(values[index(node.input(0))]);
      stack = step.constants;
      const auto& arguments = node.op.schema().arguments();
      for (const auto position : step.variable)
        stack[position] = box(node.operands[position], arguments[position].real_type(), dims, training, find);
      if (node.op.base() == "pare::training_select") {
        stack = {std::move(stack[training ? 0 : 1])};
      } else if (!override_node || !override_node(node, stack)) {
        call_op(node, in_place ? *step.in_place : node.op.handle(), stack);
      }
      check_guard(node, stack);
      if (!node.outputs.empty()) {
        unbox_results(node, stack, [&](std::size_t position, at::Tensor tensor) {
          if (position >= node.outputs.size()) return;
          values[index(node.outputs[position])] = std::move(tensor);
          if (tap) tap(node.outputs[position], values[index(node.outputs[position])]);
        });
      }
      stack.clear();
    }
    for (const auto value : step.last_use) values[index(value)] = at::Tensor();
  }
  std::vector<at::Tensor> outputs;
  for (const auto output : graph.outputs()) outputs.push_back(output == kNoValue ? at::Tensor() : find(output));
  return outputs;
}

std::vector<at::Tensor> Interpreter::call(const Node& node, std::span<const std::int64_t> dims, bool training,
                                          const Lookup& lookup) {
  std::vector<c10::IValue> stack;
  const auto& arguments = node.op.schema().arguments();
  for (std::size_t i = 0; i < node.operands.size(); ++i)
    stack.push_back(box(node.operands[i], arguments[i].real_type(), dims, training, lookup));
  if (node.op.base() == "pare::training_select") {
    stack = {std::move(stack[training ? 0 : 1])};
  } else {
    call_op(node, node.op.handle(), stack);
  }
  check_guard(node, stack);
  std::vector<at::Tensor> outputs(node.outputs.size());
  unbox_results(node, stack, [&](std::size_t position, at::Tensor tensor) {
    if (position < outputs.size()) outputs[position] = std::move(tensor);
  });
  return outputs;
}

PARE_NAMESPACE_END
