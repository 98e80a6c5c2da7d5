// The recorder's writes: in-place ops as values, through views up to their base.
#include <ATen/Functions.h>
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "capture/functional.hpp"
#include "capture/recorder.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

Recorder::State& Recorder::root_of(const at::Tensor& tensor) {
  auto* root = &state_of(tensor);
  while (!root->view.empty()) root = &states_.at(root->view.front().parent);
  return *root;
}

// What the module holds, or whoever else: anything but what the forward allocated.
bool Recorder::outlives_forward(const State& root) const {
  const auto origin = trace_.values[index(root.value)].origin;
  return origin == Trace::Origin::Weight || (origin == Trace::Origin::Constant && root.empty_op.empty());
}

void Recorder::before_write(const at::Tensor& target) {
  if (!target.defined()) return;
  const auto& root = root_of(target);
  auto& value = trace_.values[index(root.value)];
  if (!outlives_forward(root)) {
    if (value.origin == Trace::Origin::Constant) value.constant = root.alive.clone();  // filled past the dispatcher
    return;
  }
  // Memory that is not LibTorch's own may be gone when the forward is over.
  const bool owned = root.alive.has_storage() && root.alive.storage().resizable();
  if (watch_ && (owned || value.origin == Trace::Origin::Weight)) watch_(root.alive);
}

namespace {

// What the pure form of a write gives, before it takes the dtype of the tensor that is written.
at::ScalarType functional_dtype(const Op& functional, const at::Tensor& target,
                                const std::vector<at::Tensor>& sources) {
  static constexpr std::array<std::string_view, 10> kPredicates{
      "aten::eq", "aten::ne",          "aten::lt",         "aten::le",          "aten::gt",
      "aten::ge", "aten::logical_and", "aten::logical_or", "aten::logical_xor", "aten::logical_not"};
  if (std::ranges::find(kPredicates, functional.base()) != kPredicates.end()) return at::kBool;
  auto dtype = target.scalar_type();
  for (const auto& source : sources)
    if (source.dim() > 0) dtype = at::promote_types(dtype, source.scalar_type());
  return dtype;
}

}  // namespace

void Recorder::record_write(const Op& op, std::vector<Operand> operands, std::size_t written, const at::Tensor& target,
                            const std::vector<at::Tensor>& sources) {
  if (moves_memory(op))
    fail("pare.capture.112", here(), "{} gives a tensor other memory or another size; make another tensor of it",
         op.name());
  if (outlives_forward(root_of(target))) {
    // The module's own state (a counter, a running average): the write stays what it is, in its place.
    emit(op, std::move(operands), {target}, true);
    return;
  }
  if (op.base().back() != '_')
    std::rotate(operands.begin(), operands.begin() + static_cast<std::ptrdiff_t>(written) + 1, operands.end());
  auto& state = state_of(target);
  state.value = functional_write(op, operands, target, sources);
  ++state.version;
  write_through(state);
}

ValueId Recorder::functional_write(const Op& op, std::vector<Operand>& operands, const at::Tensor& target,
                                   const std::vector<at::Tensor>& sources) {
  if (op.base() == "aten::copy_") {
    auto source = operands[1].value();
    const auto like = [&](ValueId id) { return trace_.values[index(id)]; };
    if (like(source).dtype != target.scalar_type())
      source =
          emit(Op("aten::to.dtype"), {Operand(source), target.scalar_type(), false, false, Operand()}, {target})[0];
    if (like(source).sizes != target.sizes().vec() || like(source).origin != Trace::Origin::Result) {
      Operand::Ints sizes;
      for (const auto size : target.sizes()) sizes.emplace_back(size);
      source = emit(Op("aten::expand"), {Operand(source), sizes, false}, {target})[0];
    }
    return source;
  }
  const auto functional = functional_form(op, operands.size());
  if (!functional)
    fail("pare.capture.112", here(), "{} writes in place and has no pure form; use the out-of-place op", op.name());
  operands.resize(op.base() == "aten::zero_" ? functional->schema().arguments().size()
                                             : std::min(operands.size(), functional->schema().arguments().size()));
  const auto dtype = functional_dtype(*functional, target, sources);
  const auto like = dtype == target.scalar_type()
                        ? target
                        : at::empty_strided(target.sizes(), target.strides(), at::dtype(dtype).device(at::kMeta));
  auto value = emit(*functional, operands, {like}, is_random(*functional))[0];
  if (dtype != target.scalar_type())
    value = emit(Op("aten::to.dtype"), {Operand(value), target.scalar_type(), false, false, Operand()}, {target})[0];
  return value;
}

// A write through a view changes its base, and the base's base.
void Recorder::write_through(State& state) {
  if (state.view.empty()) return;
  auto& view = state.view.front();
  auto& parent = states_.at(view.parent);
  parent.value = scatter(parent, view, state.value);
  ++parent.version;
  view.parent_version = parent.version;
  write_through(parent);
}

ValueId Recorder::scatter(const State& parent, const View& view, ValueId child) {
  const auto inverse = inverse_view(view.op, view.operands, parent.alive.sizes(), view.position);
  if (!inverse)
    fail("pare.capture.113", here(),
         "a write through {} cannot be turned into a pure value; write to the whole tensor or copy it first",
         view.op.name());
  auto operands = inverse->operands;
  operands[0] = inverse->takes_base ? Operand(parent.value) : Operand(child);
  if (inverse->takes_base) operands[1] = Operand(child);
  return emit(inverse->op, std::move(operands), {parent.alive})[0];
}

PARE_NAMESPACE_END
