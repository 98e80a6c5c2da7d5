// What depends on nothing but sizes and constants (positions, masks, tables of angles) is computed once for a plan.
#include <ATen/Functions.h>

#include <algorithm>
#include <array>

#include "execute/onednn/plan_builder.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::size_t kMostBytes = std::size_t{16} << 20;  // of a result worth keeping with every plan

// Ops that read no more of their first operand than its shape and type.
bool reads_shape_only(const Node& node) {
  constexpr std::array<std::string_view, 8> likes{"aten::zeros_like", "aten::ones_like", "aten::full_like",
                                                  "aten::empty_like", "aten::new_zeros", "aten::new_ones",
                                                  "aten::new_full",   "aten::new_empty"};
  return std::ranges::find(likes, node.op.base()) != likes.end();
}

// Whether a call has no effect but its results, and the same ones every time.
bool is_pure(const Node& node) {
  return !node.barrier && node.guard.isNone() && node.condition == Condition::Always &&
         !node.op.schema().is_mutable() && !node.op.handle().hasTag(at::Tag::nondeterministic_seeded);
}

}  // namespace

const at::Tensor* PlanBuilder::constant(ValueId root) const {
  for (const auto* all : {&program_.constants, &known_})
    if (const auto found = all->find(index(root)); found != all->end()) return &found->second;
  return nullptr;
}

// For a call to read: what was computed here stays with the plan.
const at::Tensor* PlanBuilder::read_constant(ValueId root) {
  const auto* found = constant(root);
  if (found != nullptr && known_.contains(index(root))) plan_->constants[index(root)] = *found;
  return found;
}

// Runs a step now if what it reads is known. One that fails is left to fail when it is called.
bool PlanBuilder::fold(const ProgramStep& step) {
  const auto& node = graph_.node(step.node);
  if (!node.guard.isNone()) return false;  // checked on every run
  const auto is_known = [&](ValueId value) { return value == kNoValue || constant(value) != nullptr; };
  const bool known = std::ranges::all_of(step.inputs, is_known) && is_known(step.residual) &&
                     std::ranges::all_of(step.post, is_known, &PostOp::other);
  if (!known && !reads_shape_only(node)) return false;
  for (const auto output : step.outputs)
    if (quantization(output)) return false;
  try {
    if (step.kind == StepKind::Embedding) {
      auto rows = at::empty(sizes(step.outputs[0]), at::kFloat);
      look_up(step, node.name, *constant(step.inputs[0]), rows.mutable_data_ptr<float>());
      if (!keep_known(step.outputs[0], rows)) return false;
    } else {
      for (const auto output : step.outputs)
        if (!compute_now(output)) return false;
    }
  } catch (const std::exception&) {
    return false;
  }
  auto reported = step;
  reported.reason.clear();
  row(reported, "constant", "-");
  return true;
}

// By the nodes between a value and what is known already.
bool PlanBuilder::compute_now(ValueId value) {
  const auto root = program_.root_of(value);
  if (program_.state.contains(root)) return false;
  if (constant(root) != nullptr) return true;
  const auto* node = graph_.producer(root);
  if (node == nullptr || !is_pure(*node)) return false;
  const auto shape_only = reads_shape_only(*node) ? node->input(0) : kNoValue;
  bool known = true;
  for (const auto& operand : node->operands)
    operand.each_value([&](ValueId one) { known = known && (one == shape_only || compute_now(one)); });
  if (!known) return false;
  const auto results = Interpreter::call(*node, plan_->dims, false, [&](ValueId one) {
    return one == shape_only ? at::empty(sizes(one), graph_.value(one).type.dtype) : *constant(program_.root_of(one));
  });
  for (std::size_t i = 0; i < results.size(); ++i)
    if (!keep_known(node->outputs[i], results[i])) return false;
  return true;
}

bool PlanBuilder::keep_known(ValueId value, const at::Tensor& result) {
  const auto expected = sizes(value);
  if (!result.defined() || result.sizes() != at::IntArrayRef(expected)) return false;
  if (static_cast<std::size_t>(result.numel()) * result.element_size() > kMostBytes) return false;
  known_[index(program_.root_of(value))] = result.contiguous();
  return true;
}

PARE_NAMESPACE_END
