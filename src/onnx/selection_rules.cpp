// Ops that pick some of the elements: slices, splits, lookups.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

constexpr auto kEnd = std::numeric_limits<std::int64_t>::max();

// A bound of a slice as a tensor of one element; numbers may be sizes.
std::string bound(Emitter& out, const Node& node, std::size_t position, std::int64_t otherwise) {
  const auto& operand = node.operand(position);
  if (operand.is_none()) return out.integers({otherwise});
  if (const auto* size = operand.get<SymbolicInt>()) return out.shape({*size});
  Emitter::refuse(node, "argument {} is not a number", position);
}

void slice(Emitter& out, const Node& node) {
  const auto dim = dim_of(node, 1, out.type(node.input(0)).rank());
  out.result(node, "Slice",
             {out.input(node, 0), bound(out, node, 2, 0), bound(out, node, 3, kEnd), out.integers({dim}),
              out.integers({integer_of(node, 4)})});
}

void narrow(Emitter& out, const Node& node) {
  const auto dim = dim_of(node, 1, out.type(node.input(0)).rank());
  const auto start = node.operand(2).integer();
  const auto* length = node.operand(3).get<SymbolicInt>();
  if (!start || *start < 0 || !length) Emitter::refuse(node, "it starts where a size says");
  auto end = out.shape({*length});
  if (*start != 0) {
    const auto number = length->constant();
    end = number ? out.integers({*start + *number}) : out.call("Add", {end, out.integers({*start})});
  }
  out.result(node, "Slice", {out.input(node, 0), out.integers({*start}), end, out.integers({dim})});
}

void select(Emitter& out, const Node& node) {
  const auto dim = dim_of(node, 1, out.type(node.input(0)).rank());
  const auto* index = node.operand(2).get<SymbolicInt>();
  if (!index) Emitter::refuse(node, "its index is not a number");
  const auto number = index->constant();
  if (!number) Emitter::refuse(node, "its index is a size");
  out.result(node, "Gather", {out.input(node, 0), out.scalar(static_cast<double>(*number), at::kLong)},
             {{"axis", dim}});
}

void split(Emitter& out, const Node& node) {
  const bool unbind = node.is("aten::unbind");
  const auto rank = out.type(node.input(0)).rank();
  const auto dim = dim_of(node, unbind ? 1 : 2, rank);
  Ints sizes;
  for (const auto output : node.outputs) {
    const auto size =
        unbind ? std::optional<std::int64_t>(1) : out.type(output).sizes[static_cast<std::size_t>(dim)].constant();
    if (!size) Emitter::refuse(node, "the parts have no fixed size");
    sizes.push_back(*size);
  }
  auto parts = out.calls("Split", {out.input(node, 0), out.integers(sizes)}, sizes.size(), {{"axis", dim}});
  for (std::size_t i = 0; i < parts.size(); ++i)
    out.alias(node, unbind ? out.call("Squeeze", {parts[i], out.integers({dim})}) : parts[i], i);
}

void index_select(Emitter& out, const Node& node) {
  const auto dim = dim_of(node, 1, out.type(node.input(0)).rank());
  out.result(node, "Gather", {out.input(node, 0), out.input_as(node, 2, at::kLong)}, {{"axis", dim}});
}

// x[:, i]: one tensor of integers among the indices.
void index(Emitter& out, const Node& node) {
  const auto* indices = node.operand(1).get<Operand::Values>();
  if (!indices) Emitter::refuse(node, "no list of indices");
  const auto given = std::ranges::count_if(*indices, [](ValueId value) { return value != kNoValue; });
  if (given != 1) Emitter::refuse(node, "{} index tensors at once", given);
  const auto found = std::ranges::find_if(*indices, [](ValueId value) { return value != kNoValue; });
  const auto dtype = out.type(*found).dtype;
  if (dtype != at::kLong && dtype != at::kInt) Emitter::refuse(node, "an index of {}", c10::toString(dtype));
  out.result(node, "Gather", {out.input(node, 0), out.value(*found)},
             {{"axis", static_cast<std::int64_t>(found - indices->begin())}});
}

void gather(Emitter& out, const Node& node) {
  const auto dim = dim_of(node, 1, out.type(node.input(0)).rank());
  out.result(node, "GatherElements", {out.input(node, 0), out.input(node, 2)}, {{"axis", dim}});
}

// Rows of a quantized table are looked up as integers and then scaled: the table is never dequantized whole.
void embedding(Emitter& out, const Node& node) {
  const auto* table = out.constant(node.input(0));
  const auto rows = out.input(node, 1);
  const Attributes axis{{"axis", std::int64_t{0}}};
  const bool by_row = table && table->integers && table->integers->block == 0 && !table->integers->four_bits &&
                      (table->integers->scale.dim() == 0 || table->integers->axis == 0);
  if (!by_row) {
    out.result(node, "Gather", {out.input(node, 0), rows}, axis);
    return;
  }
  const auto& form = *table->integers;
  const auto name = out.graph().value(node.input(0)).name;
  const auto hint = name.empty() ? node.name + ".table" : name;
  const auto of_rows = [&](const at::Tensor& values, const std::string& what) {
    const auto all = out.tensor(values, hint + what);
    if (values.dim() == 0) return all;
    return out.call("Unsqueeze", {out.call("Gather", {all, rows}, axis), out.integers({-1})});
  };
  const auto integers = out.call("Gather", {out.tensor(form.integers, hint + ".int8"), rows}, axis);
  auto numbers = out.cast(integers, form.integers.scalar_type(), at::kFloat);
  if (form.zero_point.ne(0).any().item<bool>())
    numbers = out.call("Sub", {numbers, of_rows(form.zero_point.to(at::kFloat), ".zero_point")});
  out.result(node, "Mul", {numbers, of_rows(form.scale, ".scale")});
}

void flip(Emitter& out, const Node& node) {
  const auto rank = static_cast<std::int64_t>(out.type(node.input(0)).rank());
  auto dims = integers_of(node, 1);
  for (auto& dim : dims) dim = dim < 0 ? dim + rank : dim;
  out.result(node, "Slice",
             {out.input(node, 0), out.integers(Ints(dims.size(), -1)), out.integers(Ints(dims.size(), -kEnd)),
              out.integers(dims), out.integers(Ints(dims.size(), -1))});
}

// x[start:end] = source, as a value: what lies before, the source, what lies behind.
void slice_scatter(Emitter& out, const Node& node) {
  const auto& sizes = out.type(node.input(0)).sizes;
  const auto dim = dim_of(node, 2, sizes.size());
  const auto size = sizes[static_cast<std::size_t>(dim)].constant();
  const auto start_operand = node.operand(3).is_none() ? std::optional<std::int64_t>(0) : node.operand(3).integer();
  const auto length = out.type(node.input(1)).sizes[static_cast<std::size_t>(dim)].constant();
  const auto source = out.input(node, 1);
  if (integer_of(node, 5) != 1) Emitter::refuse(node, "every so many elements");
  if (out.type(node.input(1)).sizes == sizes) return out.alias(node, source);
  if (!size || !start_operand || !length) Emitter::refuse(node, "its bounds are not fixed");
  const auto start = *start_operand < 0 ? *start_operand + *size : *start_operand;
  const auto whole = out.input(node, 0);
  const auto part = [&](std::int64_t from, std::int64_t to) {
    return out.call("Slice", {whole, out.integers({from}), out.integers({to}), out.integers({dim})});
  };
  Names parts;
  if (start > 0) parts.push_back(part(0, start));
  parts.push_back(source);
  if (start + *length < *size) parts.push_back(part(start + *length, *size));
  out.result(node, "Concat", std::move(parts), {{"axis", dim}});
}

void triangle(Emitter& out, const Node& node) {
  out.result(node, "Trilu", {out.input(node, 0), out.scalar(static_cast<double>(integer_of(node, 1)), at::kLong)},
             {{"upper", std::int64_t{node.is("aten::triu")}}});
}

constexpr RuleEntry kSelectionRules[] = {
    {"aten::slice", slice},
    {"aten::narrow", narrow},
    {"aten::select", select},
    {"aten::chunk", split},
    {"aten::split", split},
    {"aten::split_with_sizes", split},
    {"aten::tensor_split", split},
    {"aten::unbind", split},
    {"aten::index_select", index_select},
    {"aten::index", index},
    {"aten::gather", gather},
    {"aten::embedding", embedding},
    {"aten::flip", flip},
    {"aten::slice_scatter", slice_scatter},
    {"aten::triu", triangle},
    {"aten::tril", triangle},
};

}  // namespace

std::span<const RuleEntry> selection_rules() { return kSelectionRules; }

}  // namespace onnx

PARE_NAMESPACE_END
