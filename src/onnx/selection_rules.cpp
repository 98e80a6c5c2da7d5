// Ops that pick some of the elements: slices, splits, lookups.
#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
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
  out.result(node, "Gather", {out.input(node, 0), out.scalar(*number, at::kLong)}, {{"axis", dim}});
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

// Row-major positions in dimensions [first, first + indices) as one index; negative ones count from the end.
std::string joint_index(Emitter& out, const Node& node, const std::vector<ValueId>& indices, std::size_t first) {
  const auto& sizes = out.type(node.input(0)).sizes;
  std::string joint;
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const auto size = sizes[first + i].constant();
    if (!size) Emitter::refuse(node, "several indices into a size that varies");
    const auto extent = out.scalar(*size, at::kLong);
    auto position = out.cast(out.value(indices[i]), out.type(indices[i]).dtype, at::kLong);
    position = out.call("Mod", {position, extent});
    joint = joint.empty() ? position : out.call("Add", {out.call("Mul", {joint, extent}), position});
  }
  return joint;
}

// x[:, i] and x[:, i, j]: tensors of integers for dimensions that lie side by side.
void index(Emitter& out, const Node& node) {
  const auto* given = node.operand(1).get<Operand::Values>();
  if (!given) Emitter::refuse(node, "no list of indices");
  const auto is_given = [](ValueId value) { return value != kNoValue; };
  const auto first = std::ranges::find_if(*given, is_given);
  const auto last = std::find_if(first, given->end(), std::not_fn(is_given));
  if (first == last || std::find_if(last, given->end(), is_given) != given->end())
    Emitter::refuse(node, "indices that do not lie side by side");
  const std::vector<ValueId> indices(first, last);
  for (const auto value : indices)
    if (const auto dtype = out.type(value).dtype; dtype != at::kLong && dtype != at::kInt)
      Emitter::refuse(node, "an index of {}", c10::toString(dtype));
  const auto axis = static_cast<std::size_t>(first - given->begin());
  auto source = out.input(node, 0);
  if (indices.size() == 1) {
    out.result(node, "Gather", {source, out.value(indices[0])}, {{"axis", static_cast<std::int64_t>(axis)}});
    return;
  }
  const auto positions = joint_index(out, node, indices, axis);
  const auto& from = out.type(node.input(0)).sizes;
  std::vector<SymbolicInt> joined(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(axis));
  std::int64_t count = 1;
  for (std::size_t d = axis; d < axis + indices.size(); ++d) count *= from[d].constant().value_or(0);
  joined.emplace_back(count);
  joined.insert(joined.end(), from.begin() + static_cast<std::ptrdiff_t>(axis + indices.size()), from.end());
  source = reshape_to(out, source, from, joined);
  out.result(node, "Gather", {source, positions}, {{"axis", static_cast<std::int64_t>(axis)}});
}

// The largest or smallest, in order: values and where they are.
void top(Emitter& out, const Node& node) {
  const bool sorts = node.is("aten::sort");
  const auto dims = node.op.argument("dim");
  const auto dim = dim_of(node, static_cast<std::size_t>(dims), out.type(node.input(0)).rank());
  const auto* size =
      sorts ? &out.type(node.input(0)).sizes[static_cast<std::size_t>(dim)] : node.operand(1).get<SymbolicInt>();
  if (!size) Emitter::refuse(node, "the number of elements is not a size");
  const auto flag = node.operand(sorts ? "descending" : "largest").boolean();
  const auto dtype = out.type(node.input(0)).dtype, compared = ordered_type(dtype);
  const auto parts = out.calls("TopK", {out.input_as(node, 0, compared), out.shape({*size})}, 2,
                               {{"axis", dim}, {"largest", std::int64_t{flag.value_or(!sorts)}}});
  out.alias(node, out.cast(parts[0], compared, dtype), 0);
  out.alias(node, parts[1], 1);
}

// x with the elements at `index` along a dimension replaced, or added to.
void scatter(Emitter& out, const Node& node) {
  const auto dtype = out.type(node.output()).dtype;
  const auto dim = dim_of(node, 1, out.type(node.input(0)).rank());
  if (node.op.argument("reduce") >= 0) Emitter::refuse(node, "a reduction");
  const auto indices = out.input(node, 2);
  auto source = out.input_as(node, 3, dtype);
  const auto of = node.input(3);
  if (of == kNoValue) {
    source = out.call("Expand", {source, out.call("Shape", {indices})});
  } else if (!(out.type(of).sizes == out.type(node.input(2)).sizes)) {
    Emitter::refuse(node, "a source of other sizes than the index");
  }
  Attributes attributes{{"axis", dim}};
  if (node.is("aten::scatter_add")) attributes.emplace_back("reduction", std::string("add"));
  out.result(node, "ScatterElements", {out.input(node, 0), indices, source}, std::move(attributes));
}

void one_hot(Emitter& out, const Node& node) {
  const auto classes = out.type(node.output()).sizes.back().constant();
  if (!classes) Emitter::refuse(node, "the number of classes is not fixed");
  out.result(node, "OneHot",
             {out.input(node, 0), out.integers({*classes}), out.tensor(at::tensor({0, 1}, at::kLong), "off_on")});
}

// Bags of one size each: a matrix of rows to look up, and their sum, mean or largest.
void embedding_bag(Emitter& out, const Node& node) {
  const auto* offsets = out.graph().producer(node.input(2));
  while (offsets && (offsets->is("aten::detach") || offsets->is("aten::alias")))
    offsets = out.graph().producer(offsets->input(0));
  const auto rows = out.type(node.input(1));
  const auto per_bag = [&]() -> std::optional<std::int64_t> {
    if (rows.rank() != 1 || !offsets || !offsets->is("aten::arange")) return std::nullopt;
    const auto start = offsets->op.argument("start"), step = offsets->op.argument("step");
    if (start < 0 || step < 0 || offsets->operand(static_cast<std::size_t>(start)).integer() != 0) return std::nullopt;
    const auto size = offsets->operand(static_cast<std::size_t>(step)).integer();
    const auto& bags = out.type(node.input(2)).sizes[0];
    // Products of sizes are compared at two of them.
    const auto fits = [&](std::int64_t at) {
      const std::vector<std::int64_t> dims(out.graph().dims().size(), at);
      return bags.evaluate(dims) * *size == rows.sizes[0].evaluate(dims);
    };
    return size && fits(12) && fits(30) ? size : std::nullopt;
  }();
  if (!per_bag) Emitter::refuse(node, "bags of different sizes");
  for (std::size_t i = 1; i < node.outputs.size(); ++i)
    if (!out.graph().uses(node.outputs[i]).empty()) Emitter::refuse(node, "more than the bags is used");
  if (node.input(6) != kNoValue) Emitter::refuse(node, "a weight for each row");
  if (const auto padding = node.op.argument("padding_idx");
      padding >= 0 && !node.operand(static_cast<std::size_t>(padding)).is_none())
    Emitter::refuse(node, "rows that do not count");
  constexpr std::string_view kinds[] = {"Sum", "Mean", "Max"};
  const auto matrix = out.call("Reshape", {out.input(node, 1), out.integers({-1, *per_bag})});
  const auto looked_up = out.call("Gather", {out.input(node, 0), matrix}, {{"axis", std::int64_t{0}}});
  out.alias(node, reduce(out, kinds[integer_of(node, 4)], looked_up, {1}, false, node.name), 0);
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
  out.result(node, "Trilu", {out.input(node, 0), out.scalar(integer_of(node, 1), at::kLong)},
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
    {"aten::sort", top},
    {"aten::topk", top},
    {"aten::scatter", scatter},
    {"aten::scatter_add", scatter},
    {"aten::one_hot", one_hot},
    {"aten::embedding_bag", embedding_bag},
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
