// Sums, means, norms and extrema over dimensions.
#include <ATen/ATen.h>

#include <algorithm>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

Ints axes_of(const Node& node, const Emitter& out, std::size_t position) {
  if (position >= node.operands.size() || node.operand(position).is_none()) return {};
  const auto rank = static_cast<std::int64_t>(out.type(node.input(0)).rank());
  auto axes = integers_of(node, position);
  for (auto& axis : axes) axis = axis < 0 ? axis + rank : axis;
  return axes;
}

bool keeps(const Node& node) {
  const auto position = node.op.argument("keepdim");
  return position >= 0 && node.operand(static_cast<std::size_t>(position)).boolean().value_or(false);
}

void reduced(Emitter& out, const Node& node, std::string_view kind) {
  const auto dims = node.op.argument("dim");
  const auto axes = dims < 0 ? Ints{} : axes_of(node, out, static_cast<std::size_t>(dims));
  const auto dtype = out.type(node.output()).dtype, computed = ordered_type(dtype);
  const auto source = out.input_as(node, 0, computed);
  const auto name = computed == dtype ? node.name : std::string();
  out.alias(node, out.cast(reduce(out, kind, source, axes, keeps(node), name), computed, dtype));
}

template <auto& kind>
void reduction(Emitter& out, const Node& node) {
  reduced(out, node, kind);
}

// (sum |x|^p)^(1/p) for p = 1, 2; infinity is the largest.
void norm(Emitter& out, const Node& node) {
  const auto order = node.operands.size() > 1 ? number_of(node, 1, 2) : 2;
  const auto dims = node.op.argument("dim");
  const auto axes = dims < 0 ? Ints{} : axes_of(node, out, static_cast<std::size_t>(dims));
  if (order != 1.0 && order != 2.0) Emitter::refuse(node, "order {}", order);
  const auto source = out.input_as(node, 0, out.type(node.output()).dtype);
  out.alias(node, reduce(out, order == 2.0 ? "L2" : "L1", source, axes, keeps(node), node.name));
}

void largest_index(Emitter& out, const Node& node) {
  const char* op = node.is("aten::argmax") ? "ArgMax" : "ArgMin";
  const auto& dims = node.operand(1);
  auto source = out.input_as(node, 0, ordered_type(out.type(node.input(0)).dtype));
  if (dims.is_none()) source = out.call("Reshape", {source, out.integers({-1})});
  const auto rank = out.type(node.input(0)).rank();
  const auto axis = dims.is_none() ? 0 : dim_of(node, 1, rank);
  const auto place = out.call(op, {source}, {{"axis", axis}, {"keepdims", std::int64_t{keeps(node)}}}, node.name);
  const bool all_kept = dims.is_none() && keeps(node);
  out.alias(node, all_kept ? out.call("Reshape", {place, out.integers(Ints(rank, 1))}) : place);
}

// Values and where they are.
void extremum(Emitter& out, const Node& node) {
  const bool is_max = node.is("aten::max");
  if (node.outputs.size() == 1) {
    if (node.operands.size() > 1) {
      const auto dtype = out.type(node.output()).dtype;
      const char* op = dtype == at::kBool ? (is_max ? "Or" : "And") : (is_max ? "Max" : "Min");
      out.result(node, op, {out.input_as(node, 0, dtype), out.input_as(node, 1, dtype)});
    } else {
      reduced(out, node, is_max ? "Max" : "Min");
    }
    return;
  }
  const auto dim = dim_of(node, 1, out.type(node.input(0)).rank());
  const auto dtype = out.type(node.input(0)).dtype, computed = ordered_type(dtype);
  const auto source = out.input_as(node, 0, computed);
  const auto name = computed == dtype ? node.name : std::string();
  const auto value = reduce(out, is_max ? "Max" : "Min", source, {dim}, keeps(node), name);
  out.alias(node, out.cast(value, computed, dtype), 0);
  out.alias(node,
            out.call(is_max ? "ArgMax" : "ArgMin", {source}, {{"axis", dim}, {"keepdims", std::int64_t{keeps(node)}}}),
            1);
}

void running_sum(Emitter& out, const Node& node) {
  const auto dim = dim_of(node, 1, out.type(node.input(0)).rank());
  out.result(node, "CumSum", {out.input_as(node, 0, out.type(node.output()).dtype), out.scalar(dim, at::kLong)});
}

// sum (x - mean)^2 / (n - correction), and its root. Unbiased is a correction of 1.
void variance(Emitter& out, const Node& node) {
  const auto& sizes = out.type(node.input(0)).sizes;
  const auto dims = node.op.argument("dim");
  auto axes = dims < 0 ? Ints{} : axes_of(node, out, static_cast<std::size_t>(dims));
  if (axes.empty())
    for (std::size_t d = 0; d < sizes.size(); ++d) axes.push_back(static_cast<std::int64_t>(d));
  std::int64_t count = 1;
  for (const auto axis : axes) {
    const auto size = sizes[static_cast<std::size_t>(axis)].constant();
    if (!size) Emitter::refuse(node, "the number of elements is not fixed");
    count *= *size;
  }
  const auto correction = std::max(node.op.argument("correction"), node.op.argument("unbiased"));
  const auto left = static_cast<double>(count) - number_of(node, static_cast<std::size_t>(correction), 1);
  const auto x = out.input(node, 0);
  const auto centred = out.call("Sub", {x, reduce(out, "Mean", x, axes, true)});
  const auto total = reduce(out, "Sum", out.call("Mul", {centred, centred}), axes, keeps(node));
  const auto value = out.call("Div", {total, out.scalar(left, out.type(node.output()).dtype)});
  if (node.is("aten::std"))
    out.result(node, "Sqrt", {value});
  else
    out.alias(node, value);
}

// Whether any or every element is true.
void quantifier(Emitter& out, const Node& node) {
  const bool any = node.is("aten::any");
  const auto dims = node.op.argument("dim");
  Ints axes;
  if (dims >= 0) {
    const auto rank = out.type(node.input(0)).rank();
    axes = node.operand(static_cast<std::size_t>(dims)).integer() ? Ints{dim_of(node, 1, rank)} : axes_of(node, out, 1);
    if (axes.empty() && !node.operand(static_cast<std::size_t>(dims)).is_none())
      Emitter::refuse(node, "a list of no dimensions");
  }
  const auto flags = out.cast(out.input_as(node, 0, at::kBool), at::kBool, at::kInt);
  out.alias(node, out.cast(reduce(out, any ? "Max" : "Min", flags, axes, keeps(node)), at::kInt, at::kBool));
}

constexpr const char kMean[] = "Mean", kSum[] = "Sum", kMax[] = "Max", kMin[] = "Min", kProduct[] = "Prod",
                     kLogSumExp[] = "LogSumExp";

constexpr RuleEntry kReductionRules[] = {
    {"aten::mean", reduction<kMean>},
    {"aten::sum", reduction<kSum>},
    {"aten::amax", reduction<kMax>},
    {"aten::amin", reduction<kMin>},
    {"aten::prod", reduction<kProduct>},
    {"aten::logsumexp", reduction<kLogSumExp>},
    {"aten::norm", norm},
    {"aten::linalg_vector_norm", norm},
    {"aten::argmax", largest_index},
    {"aten::argmin", largest_index},
    {"aten::max", extremum},
    {"aten::min", extremum},
    {"aten::cumsum", running_sum},
    {"aten::var", variance},
    {"aten::std", variance},
    {"aten::any", quantifier},
    {"aten::all", quantifier},
};

}  // namespace

std::span<const RuleEntry> reduction_rules() { return kReductionRules; }

// Axes are an attribute of most reductions before operator set 18, and an input since; of sums since 13.
std::string reduce(Emitter& out, std::string_view kind, const std::string& name, const std::vector<std::int64_t>& axes,
                   bool keep, const std::string& result) {
  const auto op = fmt::format("Reduce{}", kind);
  Attributes attributes{{"keepdims", std::int64_t{keep}}};
  Names inputs{name};
  if (!axes.empty()) {
    if (out.opset() >= 18 || kind == "Sum")
      inputs.push_back(out.integers(axes));
    else
      attributes.emplace_back("axes", axes);
  }
  return out.call(op, std::move(inputs), std::move(attributes), result);
}

}  // namespace onnx

PARE_NAMESPACE_END
