// Linear layers whose weights stay integers and whose inputs are numbers.
#include <ATen/ATen.h>

#include <algorithm>

#include "execute/onednn/lowering.hpp"
#include "graph/dequantize.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool keeps_order(const Node& node) {
  return node.is("aten::reshape") || node.is("aten::view") || node.is("aten::contiguous") || node.is("aten::alias") ||
         node.is("aten::detach");
}

bool is_transpose(const Node& node) {
  return node.is("aten::t") || node.is("aten::numpy_T") || node.is("aten::transpose.int");
}

bool is_matrix(const TensorType& type) {
  return type.rank() == 2 && type.sizes[0].is_constant() && type.sizes[1].is_constant();
}

}  // namespace

// The integers that a fake-quantize on a weight's way rounds to, in the order of its rows; undefined where the table
// holds numbers that are none.
at::Tensor Lowering::codes_of(const std::vector<NodeId>& path, std::size_t quantizer, int bits) {
  const auto& node = graph_.node(path[quantizer]);
  const auto& first = graph_.node(path[0]);
  at::Tensor integers;
  if (quantizer == 1 && first.is("pare::dequantize")) {
    const auto stored = model_.weight(first.input(0)).detach();
    if (stored.scalar_type() == (bits == 4 ? at::kByte : at::kChar)) return stored.contiguous();
    integers = unpack_integers(stored, {stored.numel() * (stored.scalar_type() == at::kByte ? 2 : 1)});
  } else if (quantizer == 2 && scales_integers(graph_, graph_.node(path[1]))) {
    integers = model_.weight(first.input(0)).detach();
  } else {
    const auto column = [&](std::size_t operand) {
      return constant(node.input(operand)).to(at::kFloat).reshape({-1, 1});
    };
    const auto numbers = constant(node.input(0)).to(at::kFloat);
    const auto low = node.operand("quant_min").integer().value_or(-128),
               high = node.operand("quant_max").integer().value_or(127);
    // As ATen rounds: times the inverse, to even.
    integers = at::round(numbers * column(1).reciprocal())
                   .add_(column(2))
                   .clamp_(static_cast<double>(low), static_cast<double>(high))
                   .to(at::kChar);
    for (const auto id : path) folded_.erase(index(graph_.node(id).output()));
  }
  return bits == 4 ? IntegerRows::pairs_of(integers) : integers.contiguous();
}

// A weight `[outputs, features]`, or its transpose where the reader wants `turned` columns, as the integers that it is;
// nothing where it is not rounded in groups of rows that can be read so.
std::optional<IntegerRows> Lowering::integer_rows(ValueId weight, bool turned) {
  std::vector<NodeId> path;
  if (!is_constant(weight) || !is_matrix(type(weight)) || table_weight(graph_, weight, &path) == kNoValue)
    return std::nullopt;
  // From the rows that have scales to what the layer reads: the same order, turned at the end.
  std::size_t at = 0;
  while (at < path.size() && !graph_.node(path[at]).is("aten::fake_quantize_per_channel_affine")) ++at;
  if (at == path.size()) return std::nullopt;
  bool is_turned = false;
  for (auto next = at + 1; next < path.size(); ++next) {
    const auto& node = graph_.node(path[next]);
    if (is_transpose(node)) {
      is_turned = !is_turned;
    } else if (!keeps_order(node) || is_turned) {
      return std::nullopt;
    }
  }
  const auto& quantizer = graph_.node(path[at]);
  const auto& rows_type = type(quantizer.input(0));
  if (is_turned != turned || !is_matrix(rows_type) || quantizer.operand("axis").integer() != 0) return std::nullopt;

  IntegerRows rows;
  rows.outputs = *type(weight).sizes[turned ? 1 : 0].constant();
  rows.features = *type(weight).sizes[turned ? 0 : 1].constant();
  rows.group = *rows_type.sizes[1].constant();
  const auto low = quantizer.operand("quant_min").integer().value_or(-999),
             high = quantizer.operand("quant_max").integer().value_or(999);
  if (low < -128 || high > 127) return std::nullopt;
  rows.bits = low >= -8 && high <= 7 ? 4 : 8;
  if (rows.outputs < 1 || !IntegerRows::reads(rows.bits, rows.group) || rows.features % rows.group != 0 ||
      *rows_type.sizes[0].constant() != rows.outputs * rows.groups())
    return std::nullopt;
  const auto key = index(quantizer.output());
  if (const auto known = integer_rows_.find(key); known != integer_rows_.end()) return known->second;
  const auto grid = [&](std::size_t operand) {
    const auto column = constant(quantizer.input(operand)).to(at::kFloat);
    return column.reshape({rows.outputs, rows.groups()}).contiguous().clone();
  };
  rows.codes = codes_of(path, at, rows.bits);
  rows.scale = grid(1);
  if (const auto offset = grid(2); offset.ne(0).any().item<bool>()) rows.offset = offset;
  return integer_rows_.emplace(key, std::move(rows)).first->second;
}

bool Lowering::lower_integer_rows(const FusedRegion& region) {
  const auto& anchor = graph_.node(region.anchor);
  const bool is_linear = anchor.is("aten::linear"), is_addmm = anchor.is("aten::addmm");
  const bool is_product = anchor.is("aten::matmul") || anchor.is("aten::mm");
  if ((!is_linear && !is_addmm && !is_product) || region.weight == kNoValue || done_[index(region.anchor)])
    return false;
  if (is_addmm && (anchor.operand("beta").number() != 1.0 || anchor.operand("alpha").number() != 1.0)) return false;
  const auto last = region.bias_add == kNoNode ? anchor.output() : graph_.node(region.bias_add).output();
  const auto source = input(anchor, is_addmm ? 1 : 0);
  if (is_constant(source) || type(last).dtype != at::kFloat || type(source).rank() < 1 ||
      type(last).rank() != type(source).rank())
    return false;
  if (region.bias != kNoValue && (!is_constant(region.bias) || type(region.bias).rank() != 1)) return false;
  auto rows = integer_rows(anchor.input(is_addmm ? 2 : 1), !is_linear);
  if (!rows || (region.bias != kNoValue && constant(region.bias).numel() != rows->outputs)) return false;
  // Integers on both sides have kernels of their own.
  if (program_.quantization[index(source)] && rows->groups() == 1 && !rows->offset.defined()) return false;
  if (region.bias != kNoValue) rows->bias = constant(region.bias).to(at::kFloat).contiguous().clone();
  ProgramStep step{.kind = StepKind::IntegerRows, .node = region.anchor};
  step.inputs = {source};
  step.rows = std::make_shared<const IntegerRows>(std::move(*rows));
  done_[index(region.anchor)] = true;
  if (region.bias_add != kNoNode) {
    done_[index(region.bias_add)] = true;
    step.absorbed.push_back(region.bias_add);
  }
  finish(std::move(step), root(last));
  for (const auto id : region.nodes)
    if (!done_[index(id)]) lower_node(graph_.node(id));
  return true;
}

// A table whose rows are looked up, where it has fewer bits or more scales than `integer_table` keeps.
bool Lowering::lower_row_lookup(const Node& node, ProgramStep& step) {
  auto rows = integer_rows(node.input(0), false);
  if (!rows || (rows->bits == 8 && rows->groups() == 1 && !rows->offset.defined())) return false;
  step.rows = std::make_shared<const IntegerRows>(std::move(*rows));
  step.kind = StepKind::Embedding;
  step.inputs = {input(node, 1)};
  return true;
}

PARE_NAMESPACE_END
