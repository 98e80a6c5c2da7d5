#pragma once

#include <span>
#include <string_view>

#include "onnx/emitter.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

using Ints = std::vector<std::int64_t>;

/// Writes one call of an ATen operator as ONNX nodes.
using Rule = void (*)(Emitter& out, const Node& node);

/// One row of a family's table.
struct RuleEntry {
  std::string_view op;  ///< without overload
  Rule rule;
};

// One table a family, each in a file of its own.
std::span<const RuleEntry> layer_rules();
std::span<const RuleEntry> elementwise_rules();
std::span<const RuleEntry> activation_rules();
std::span<const RuleEntry> shape_rules();
std::span<const RuleEntry> selection_rules();
std::span<const RuleEntry> creation_rules();
std::span<const RuleEntry> reduction_rules();
std::span<const RuleEntry> image_rules();
std::span<const RuleEntry> norm_rules();
std::span<const RuleEntry> attention_rules();
std::span<const RuleEntry> recurrent_rules();
std::span<const RuleEntry> quantization_rules();

/// The rule for an operator, or null.
Rule find_rule(const Op& op);

// What several families need.

/// Reshapes to the sizes of a value, with the fewest sizes computed at run time.
std::string reshape_to(Emitter& out, const std::string& name, const std::vector<SymbolicInt>& from,
                       const std::vector<SymbolicInt>& to);
/// A dimension counted from the front.
std::int64_t dim_of(const Node& node, std::size_t position, std::size_t rank);
/// An operand's constant numbers. @throws Error `pare.onnx.101` where they are not constant
Ints integers_of(const Node& node, std::size_t position);
/// One number for each of `count` dimensions where a call gives one for all.
inline Ints spread(Ints values, std::size_t count) {
  if (values.size() == 1) values.resize(count, values[0]);
  return values;
}
std::int64_t integer_of(const Node& node, std::size_t position);
double number_of(const Node& node, std::size_t position, double otherwise);
/// What numbers of a dtype are ordered as: ONNX has no extrema of flags and of 16-bit integers.
inline c10::ScalarType ordered_type(c10::ScalarType dtype) {
  return dtype == c10::ScalarType::Bool || dtype == c10::ScalarType::Short ? c10::ScalarType::Int : dtype;
}
/// Reductions over `axes` (all where empty).
std::string reduce(Emitter& out, std::string_view kind, const std::string& name, const Ints& axes, bool keep,
                   const std::string& result = {});
/// The bias of a layer with `channels` outputs: int32 where source and weight are integers, float otherwise.
std::string bias_of(Emitter& out, ValueId bias, ValueId source, ValueId weight, std::int64_t channels);

}  // namespace onnx

PARE_NAMESPACE_END
