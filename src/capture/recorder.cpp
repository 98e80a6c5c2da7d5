#include "capture/recorder.hpp"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "capture/functional.hpp"
#include "graph/shape_only_call.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

std::vector<at::Tensor> tensors_in(const torch::jit::Stack& stack, std::size_t count) {
  std::vector<at::Tensor> tensors;
  for (auto it = stack.end() - static_cast<std::ptrdiff_t>(count); it != stack.end(); ++it) {
    if (it->isTensor()) {
      tensors.push_back(it->toTensor());
    } else if (it->isTensorList()) {
      for (const at::Tensor& tensor : it->toTensorList()) tensors.push_back(tensor);
    } else if (it->isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& tensor : it->toOptionalTensorList())
        if (tensor) tensors.push_back(*tensor);
    }
  }
  std::erase_if(tensors, [](const at::Tensor& tensor) { return !tensor.defined(); });
  return tensors;
}

std::vector<at::Tensor> results_in(const torch::jit::Stack& stack) {
  std::vector<at::Tensor> results;
  for (const auto& value : stack) {
    if (value.isTensor()) {
      results.push_back(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorList()) results.push_back(tensor);
    } else if (value.isNone()) {
      results.emplace_back();
    }
  }
  return results;
}

// The arguments that an op writes to.
std::vector<std::size_t> written_arguments(const c10::FunctionSchema& schema) {
  std::vector<std::size_t> written;
  for (std::size_t i = 0; i < schema.arguments().size(); ++i)
    if (const auto* alias = schema.arguments()[i].alias_info(); alias && alias->isWrite()) written.push_back(i);
  return written;
}

bool returns_tensors(const c10::FunctionSchema& schema) {
  return std::any_of(schema.returns().begin(), schema.returns().end(), [](const c10::Argument& result) {
    const auto& type = result.type();
    return type->kind() == c10::TypeKind::TensorType || type->kind() == c10::TypeKind::ListType;
  });
}

bool shares_storage(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() && b.defined() && a.has_storage() && b.has_storage() && a.storage().nbytes() > 0 &&
         a.storage().is_alias_of(b.storage());
}

constexpr int kSentinel = 0xA5;

// An allocation that nobody wrote to is told from one that was filled through a raw pointer by its bytes.
void fill_sentinel(const at::Tensor& tensor) {
  if (tensor.device().is_cpu() && tensor.nbytes() > 0) std::memset(tensor.data_ptr(), kSentinel, tensor.nbytes());
}

bool is_untouched(const at::Tensor& tensor) {
  if (!tensor.device().is_cpu()) return true;
  const auto* bytes = static_cast<const unsigned char*>(tensor.data_ptr());
  return std::all_of(bytes, bytes + tensor.nbytes(), [](unsigned char byte) { return byte == kSentinel; });
}

}  // namespace

Recorder::Recorder(const ModuleTensors& tensors, Computation computation) : computation_(computation) {
  for (const auto& entry : tensors.entries) {
    weights_.emplace(entry.tensor.unsafeGetTensorImpl(), entry.path);
    module_tensors_.push_back(entry.tensor);
  }
}

// ---- values

ValueId Recorder::new_value(Trace::Value value, const at::Tensor& tensor) {
  const ValueId id{static_cast<std::uint32_t>(trace_.values.size())};
  if (tensor.defined()) {
    value.dtype = tensor.scalar_type();
    value.sizes = tensor.sizes().vec();
  }
  trace_.values.push_back(std::move(value));
  value_tensors_.push_back(snapshots_ && tensor.defined() ? tensor.detach().clone() : tensor);
  return id;
}

ValueId Recorder::result(const at::Tensor& tensor, bool depends_on_input) {
  Trace::Value value;
  value.depends_on_input = depends_on_input;
  return new_value(std::move(value), tensor);
}

void Recorder::bind(const at::Tensor& tensor, ValueId value) {
  if (!tensor.defined()) return;
  auto& state = states_[tensor.unsafeGetTensorImpl()];
  state = State{};
  state.alive = tensor;
  state.value = value;
}

ValueId Recorder::add_input(const at::Tensor& tensor) {
  Trace::Value value;
  value.origin = Trace::Origin::Input;
  value.depends_on_input = true;
  value.position =
      static_cast<std::size_t>(std::count_if(trace_.values.begin(), trace_.values.end(), [](const Trace::Value& known) {
        return known.origin == Trace::Origin::Input;
      }));
  const auto id = new_value(std::move(value), tensor);
  bind(tensor, id);
  return id;
}

void Recorder::add_output(const at::Tensor& tensor) { trace_.outputs.push_back(resolve(tensor)); }

ValueId Recorder::resolve(const at::Tensor& tensor) {
  if (!tensor.defined()) return kNoValue;
  const auto found = states_.find(tensor.unsafeGetTensorImpl());
  if (found == states_.end()) return resolve_unknown(tensor);
  auto& state = found->second;
  if (state.uninitialised) {
    if (is_untouched(tensor)) {
      const auto ids = emit(state.empty_op.front(), state.empty_operands, {tensor});
      state.value = ids.front();
    } else {
      Trace::Value value;
      value.origin = Trace::Origin::Constant;
      value.constant = tensor;
      state.value = new_value(std::move(value), tensor);
    }
    state.uninitialised = false;
  }
  refresh(state);
  return state.value;
}

ValueId Recorder::resolve_unknown(const at::Tensor& tensor) {
  Trace::Value value;
  if (const auto weight = weights_.find(tensor.unsafeGetTensorImpl()); weight != weights_.end()) {
    value.origin = Trace::Origin::Weight;
    value.path = weight->second;
  } else if (auto* alias = find_alias(tensor)) {
    // The same memory under another TensorImpl: `tensor.data()`, which no dispatcher call shows.
    refresh(*alias);
    const auto parent = alias->value;
    const auto id = emit(Op("aten::detach"), {Operand(parent)}, {tensor}).front();
    auto* parent_impl = alias->alive.unsafeGetTensorImpl();
    const auto version = alias->version;
    bind(tensor, id);
    state_of(tensor).view.push_back({parent_impl, Op("aten::detach"), {Operand(parent)}, 0, 1, version, parent});
    return id;
  } else {
    value.origin = Trace::Origin::Constant;
    value.constant = tensor;
  }
  const auto id = new_value(std::move(value), tensor);
  bind(tensor, id);
  return id;
}

// The same elements under another TensorImpl; of several, the one computed last, so that runs agree. `torch::empty`
// hands out a twin of the tensor that was allocated.
Recorder::State* Recorder::find_alias(const at::Tensor& tensor) {
  const auto is_twin = [&](const at::Tensor& known) {
    return shares_storage(known, tensor) && known.sizes() == tensor.sizes() && known.strides() == tensor.strides() &&
           known.storage_offset() == tensor.storage_offset();
  };
  State* latest = nullptr;
  for (auto& [impl, state] : states_)
    if (state.value != kNoValue && is_twin(state.alive) && (!latest || index(latest->value) < index(state.value)))
      latest = &state;
  if (latest) return latest;
  for (auto& [impl, state] : states_)
    if (state.uninitialised && state.alive.sizes() == tensor.sizes() && tensor.has_storage() &&
        tensor.storage().is_alias_of(state.alive.storage())) {
      resolve(state.alive);
      return &state;
    }
  for (const auto& weight : module_tensors_) {
    if (!is_twin(weight)) continue;
    resolve(weight);
    return &state_of(weight);
  }
  return nullptr;
}

// A view whose base was written since is computed again from the base's new value.
void Recorder::refresh(State& state) {
  if (state.view.empty()) return;
  auto& view = state.view.front();
  auto& parent = states_.at(view.parent);
  refresh(parent);
  if (parent.version == view.parent_version) return;
  for (auto& operand : view.operands)
    operand.each_value([&](ValueId& value) {
      if (value == view.parent_value) value = parent.value;
    });
  view.parent_value = parent.value;
  std::vector<at::Tensor> results(view.count, state.alive);
  state.value = emit(view.op, view.operands, results)[view.position];
  view.parent_version = parent.version;
  ++state.version;
}

// ---- operands

Operand Recorder::operand_of(const c10::IValue& value) {
  if (value.isNone()) return {};
  if (value.isTensor()) {
    const auto id = resolve(value.toTensor());
    return id == kNoValue ? Operand() : Operand(id);
  }
  if (value.isTensorList()) {
    Operand::Values values;
    for (const at::Tensor& tensor : value.toTensorList()) values.push_back(resolve(tensor));
    return values;
  }
  if (value.isOptionalTensorList()) {
    Operand::Values values;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList())
      values.push_back(tensor ? resolve(*tensor) : kNoValue);
    return values;
  }
  return value;
}

std::vector<Operand> Recorder::operands_of(const torch::jit::Stack& stack, std::size_t count) {
  std::vector<Operand> operands;
  for (std::size_t i = stack.size() - count; i < stack.size(); ++i) operands.push_back(operand_of(stack[i]));
  return operands;
}

bool Recorder::depends_on_input(const std::vector<Operand>& operands) const {
  bool depends = false;
  for (const auto& operand : operands)
    operand.each_value([&](ValueId value) { depends |= trace_.values[index(value)].depends_on_input; });
  return depends;
}

std::vector<ValueId> Recorder::emit(const Op& op, std::vector<Operand> operands, const std::vector<at::Tensor>& results,
                                    bool barrier) {
  const bool depends = depends_on_input(operands);
  Trace::Call call{op, std::move(operands), {}, barrier, {}};
  for (const auto& tensor : results) call.outputs.push_back(result(tensor, depends));
  trace_.calls.push_back(std::move(call));
  return trace_.calls.back().outputs;
}

// ---- calls

void Recorder::call(const c10::OperatorHandle& handle, torch::jit::Stack& stack) {
  const auto& schema = handle.schema();
  const auto count = schema.arguments().size();
  const Op op(handle);
  const auto arguments = tensors_in(stack, count);
  keep_alive_.insert(keep_alive_.end(), arguments.begin(), arguments.end());

  if (is_allocation(op)) {
    const auto operands = operands_of(stack, count);
    execute(handle, stack, count, operands);
    const auto results = results_in(stack);
    fill_sentinel(results.front());
    bind(results.front(), kNoValue);
    auto& state = state_of(results.front());
    state.uninitialised = true;
    state.empty_operands = operands;
    state.empty_op = {op};
    return;
  }

  auto operands = operands_of(stack, count);
  if (op.base() == "aten::equal" && trace_.same_value(operands[0].value(), operands[1].value())) {
    torch::jit::drop(stack, count);
    stack.emplace_back(true);  // a tensor equals itself, whatever its values
    return;
  }
  trace_.reads_values |=
      reads_values(op) || handle.hasTag(at::Tag::data_dependent_output) || handle.hasTag(at::Tag::dynamic_output_shape);
  if (const auto written = written_arguments(schema); !written.empty()) {
    const auto target = stack[stack.size() - count + written[0]];
    if (written.size() > 1 || !target.isTensor())
      fail("pare.capture.111", here(),
           "{} writes to several tensors; capture cannot follow it: write to one tensor at a time", op.name());
    before_write(target.toTensor());
    const auto elements = target.toTensor().numel();
    execute(handle, stack, count, operands);
    // An `out=` that was empty has taken its result's size, and memory of its own.
    if (elements == 0 && target.toTensor().numel() > 0) state_of(target.toTensor()).view.clear();
    record_write(op, std::move(operands), written[0], target.toTensor(), arguments);
  } else if (!returns_tensors(schema)) {
    execute(handle, stack, count, operands);
    record_read(op, std::move(operands), stack);
  } else {
    execute(handle, stack, count, operands);
    separate_identities(stack, arguments);
    record_pure(op, std::move(operands), arguments, stack);
  }
}

void Recorder::execute(const c10::OperatorHandle& handle, torch::jit::Stack& stack, std::size_t count,
                       const std::vector<Operand>& operands) {
  try {
    if (computation_ != Computation::Values &&
        shape_only_call(handle, stack, count, computation_ == Computation::Zeros))
      return;
    handle.callBoxed(&stack);
  } catch (const std::exception&) {
    const auto module = trace_.module_of(operands);
    failed_in_ = module.empty() ? here() : module;
    throw;
  }
}

// Ops such as `contiguous` or an inactive `dropout` hand their argument back. A result that is a tensor of its own
// keeps the two apart, as they are in the other mode or at other strides.
void Recorder::separate_identities(torch::jit::Stack& stack, const std::vector<at::Tensor>& arguments) {
  for (auto& value : stack) {
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    const auto& tensor = value.toTensor();
    if (std::any_of(arguments.begin(), arguments.end(), [&](const at::Tensor& a) { return a.is_same(tensor); }))
      value = at::alias(tensor);
  }
}

void Recorder::record_pure(const Op& op, std::vector<Operand> operands, const std::vector<at::Tensor>& arguments,
                           const torch::jit::Stack& stack) {
  const auto results = results_in(stack);
  const auto ids = emit(op, operands, results, is_random(op));
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!results[i].defined()) continue;
    keep_alive_.push_back(results[i]);
    bind(results[i], ids[i]);
    for (const auto& argument : arguments) {
      if (!shares_storage(results[i], argument)) continue;
      auto* parent = argument.unsafeGetTensorImpl();
      state_of(results[i])
          .view.push_back(
              {parent, op, operands, i, results.size(), states_.at(parent).version, states_.at(parent).value});
      break;
    }
  }
}

void Recorder::record_read(const Op& op, std::vector<Operand> operands, const torch::jit::Stack& stack) {
  if (stack.empty() || !reads_values(op)) return;
  const auto& seen = stack.back();
  const auto where = here();
  if (op.base() != "aten::equal" && depends_on_input(operands))
    fail("pare.capture.121", where,
         "the forward reads a value out of a tensor that depends on its input ({}), so its path may depend on data; "
         "keep the decision in tensor ops (torch::where), or simulate this module on its own forward",
         op.name());
  Trace::Call call{op, std::move(operands), {}, false, seen};
  call.barrier = true;
  trace_.calls.push_back(std::move(call));
}

PARE_NAMESPACE_END
