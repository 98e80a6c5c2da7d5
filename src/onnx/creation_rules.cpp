// Tensors out of nothing but sizes.
#include <ATen/ATen.h>

#include <algorithm>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

// Another tensor's sizes are read from it where they vary: formulas of pooled sizes are fitted, not derived.
void filled(Emitter& out, const Node& node, const std::string& value) {
  const auto& sizes = out.type(node.output()).sizes;
  const auto like = node.operands.empty() ? kNoValue : node.input(0);
  const bool reads = like != kNoValue && (node.is("aten::fill") || node.op.base().ends_with("_like")) &&
                     !std::ranges::all_of(sizes, &SymbolicInt::is_constant);
  out.result(node, "Expand", {value, reads ? out.call("Shape", {out.value(like)}) : out.shape(sizes)});
}

void zeros(Emitter& out, const Node& node) { filled(out, node, out.scalar(0, out.type(node.output()).dtype)); }
void ones(Emitter& out, const Node& node) { filled(out, node, out.scalar(1, out.type(node.output()).dtype)); }

void full(Emitter& out, const Node& node) {
  const auto position = static_cast<std::size_t>(node.op.argument("fill_value"));
  filled(out, node, out.input_as(node, position, out.type(node.output()).dtype));
}

void fill(Emitter& out, const Node& node) { filled(out, node, out.input_as(node, 1, out.type(node.output()).dtype)); }

void range(Emitter& out, const Node& node) {
  const auto dtype = out.type(node.output()).dtype;
  const auto start = node.op.argument("start"), end = node.op.argument("end"), step = node.op.argument("step");
  const auto at = [&](int position, double otherwise) {
    return position < 0 ? out.scalar(otherwise, dtype) : out.input_as(node, static_cast<std::size_t>(position), dtype);
  };
  out.result(node, "Range", {at(start, 0), at(end, 0), at(step, 1)});
}

constexpr RuleEntry kCreationRules[] = {
    {"aten::zeros", zeros},      {"aten::zeros_like", zeros}, {"aten::new_zeros", zeros}, {"aten::empty", zeros},
    {"aten::empty_like", zeros}, {"aten::new_empty", zeros},  {"aten::ones", ones},       {"aten::ones_like", ones},
    {"aten::new_ones", ones},    {"aten::full", full},        {"aten::full_like", full},  {"aten::new_full", full},
    {"aten::fill", fill},        {"aten::arange", range},
};

}  // namespace

std::span<const RuleEntry> creation_rules() { return kCreationRules; }

}  // namespace onnx

PARE_NAMESPACE_END
