#include "checkpoint/packing.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "graph/dequantize.hpp"

PARE_NAMESPACE_BEGIN

namespace checkpoint {

namespace {

// A vector along one axis, shaped to broadcast.
at::Tensor along(const at::Tensor& vector, std::int64_t axis, std::int64_t rank) {
  if (vector.numel() == 1) return vector.reshape({});
  std::vector<std::int64_t> shape(static_cast<std::size_t>(rank), 1);
  shape[static_cast<std::size_t>(axis)] = vector.numel();
  return vector.reshape(shape);
}

// The fake-quantize at the end of what one reader of a weight does, and how the weight is cut on the way to it.
const Node* quantizer_behind(const Graph& graph, NodeId reader, Packing& packing) {
  const auto* node = &graph.node(reader);
  for (int steps = 0; steps < 3; ++steps) {
    if (node->op.base().starts_with("aten::fake_quantize")) return node;
    if (node->is("aten::transpose") && steps == 0) {
      const auto from = node->operand(1).integer(), to = node->operand(2).integer();
      if (from != 0 || !to || *to <= 0) return nullptr;
      packing.transposed = true;
      packing.swapped_with = *to;
    } else if (!node->is("aten::reshape")) {
      return nullptr;
    }
    if (node->outputs.size() != 1 || graph.uses(node->output()).size() != 1) return nullptr;
    const auto next = graph.uses(node->output())[0];
    if (next.node == kNoNode || next.operand != 0) return nullptr;
    node = &graph.node(next.node);
  }
  return nullptr;
}

std::optional<Packing> read(const Model& model, ValueId weight, NodeId reader) {
  const auto& graph = model.graph();
  Packing packing;
  const auto* node = quantizer_behind(graph, reader, packing);
  if (!node) return std::nullopt;
  packing.sizes = model.weight(weight).sizes().vec();
  for (const auto& size : graph.value(node->input(0)).type.sizes) {
    if (!size.is_constant()) return std::nullopt;
    packing.rows.push_back(*size.constant());
  }
  const auto low = node->operand("quant_min").integer(), high = node->operand("quant_max").integer();
  if (!low || !high) return std::nullopt;
  packing.quant_min = *low;
  packing.quant_max = *high;
  packing.kind = *low >= -8 && *high <= 7       ? "int4"
                 : *low >= -128 && *high <= 127 ? "int8"
                 : *low >= 0 && *high <= 255    ? "uint8"
                                                : "";
  if (packing.kind.empty()) return std::nullopt;
  if (node->op.base() == "aten::fake_quantize_per_channel_affine") {
    const auto axis = node->operand("axis").integer();
    const auto scale = node->input(1), zero_point = node->input(2);
    if (!axis || graph.value(scale).kind != ValueKind::Weight || graph.value(zero_point).kind != ValueKind::Weight)
      return std::nullopt;
    packing.axis = *axis;
    packing.scale = graph.value(scale).name;
    packing.zero_point = graph.value(zero_point).name;
    return packing;
  }
  const auto scale = node->operand(1).number();
  const auto zero_point = node->operand(2).integer();
  if (!scale || !zero_point) return std::nullopt;
  packing.scale_number = *scale;
  packing.zero_number = *zero_point;
  return packing;
}

bool same(const Packing& a, const Packing& b) {
  return a.kind == b.kind && a.rows == b.rows && a.axis == b.axis && a.transposed == b.transposed &&
         a.swapped_with == b.swapped_with && a.scale == b.scale && a.zero_point == b.zero_point &&
         a.scale_number == b.scale_number && a.zero_number == b.zero_number && a.quant_min == b.quant_min &&
         a.quant_max == b.quant_max;
}

at::Tensor scale_of(const Model& model, const Packing& packing) {
  return packing.scale.empty() ? at::full({}, packing.scale_number, at::kFloat)
                               : model.weight(packing.scale).detach().to(at::kFloat);
}

at::Tensor zero_of(const Model& model, const Packing& packing) {
  return packing.zero_point.empty() ? at::full({}, packing.zero_number, at::kInt)
                                    : model.weight(packing.zero_point).detach().to(at::kInt);
}

// As ATen rounds: times the inverse, to even.
at::Tensor integers_of(const Model& model, ValueId weight, const Packing& packing) {
  auto numbers = model.weight(weight).detach();
  if (packing.transposed) numbers = numbers.transpose(0, packing.swapped_with);
  numbers = numbers.reshape(packing.rows);
  const auto rank = numbers.dim();
  const auto inverse = along(scale_of(model, packing).reciprocal(), packing.axis, rank);
  const auto zero_point = along(zero_of(model, packing).to(at::kFloat), packing.axis, rank);
  return (at::round(numbers * inverse) + zero_point)
      .clamp(static_cast<double>(packing.quant_min), static_cast<double>(packing.quant_max));
}

at::Tensor numbers_of(const at::Tensor& integers, const Packing& packing, const at::Tensor& scale,
                      const at::Tensor& zero_point) {
  const auto rank = integers.dim();
  auto numbers = (integers.to(at::kFloat) - along(zero_point.to(at::kFloat), packing.axis, rank)) *
                 along(scale, packing.axis, rank);
  if (!packing.transposed) return numbers.reshape(packing.sizes).contiguous();
  auto swapped = packing.sizes;
  std::swap(swapped[0], swapped[static_cast<std::size_t>(packing.swapped_with)]);
  return numbers.reshape(swapped).transpose(0, packing.swapped_with).contiguous();
}

// Elements of a shape; -1 where there is no such number.
std::int64_t count_of(const std::vector<std::int64_t>& sizes) {
  std::int64_t product = 1;
  for (const auto size : sizes)
    if (size < 0 || __builtin_mul_overflow(product, size, &product)) return -1;
  return product;
}

}  // namespace

std::optional<Packing> packing_of(const Model& model, ValueId weight) {
  const auto& graph = model.graph();
  if (model.weight(weight).scalar_type() != at::kFloat) return std::nullopt;
  std::optional<Packing> packing;
  for (const auto& use : graph.uses(weight)) {
    if (use.node == kNoNode || use.operand != 0) return std::nullopt;
    const auto one = read(model, weight, use.node);
    if (!one || (packing && !same(*packing, *one))) return std::nullopt;
    packing = one;
  }
  if (!packing) return std::nullopt;
  // Only where the way back leads to the same integers, so that the outputs stay what they are.
  const auto integers = integers_of(model, weight, *packing);
  const auto back = numbers_of(integers, *packing, scale_of(model, *packing), zero_of(model, *packing));
  Model copy = model;
  copy.set_weight(graph.value(weight).name, back);
  if (!at::equal(integers_of(copy, weight, *packing), integers)) return std::nullopt;
  return packing;
}

at::Tensor pack(const Model& model, ValueId weight, const Packing& packing) {
  const auto integers = integers_of(model, weight, packing);
  if (packing.kind == "int8") return integers.to(at::kChar);
  if (packing.kind == "uint8") return integers.to(at::kByte);
  auto flat = integers.to(at::kInt).flatten().bitwise_and(15);
  if (flat.numel() % 2 != 0) flat = at::cat({flat, at::zeros({1}, at::kInt)});
  const auto pairs = flat.view({-1, 2});
  return (pairs.select(1, 0) + pairs.select(1, 1) * 16).to(at::kByte);
}

std::vector<NodeId> quantizers_of(const Graph& graph, ValueId weight) {
  std::vector<NodeId> nodes;
  for (const auto& use : graph.uses(weight)) {
    Packing ignored;
    const auto* node = use.node == kNoNode || use.operand != 0 ? nullptr : quantizer_behind(graph, use.node, ignored);
    if (!node) return {};
    nodes.push_back(node->id);
  }
  return nodes;
}

at::Tensor along_rows(const at::Tensor& vector, const Packing& packing) {
  return along(vector, packing.axis, static_cast<std::int64_t>(packing.rows.size()));
}

bool fits(const at::Tensor& stored, const Packing& packing, const at::Tensor& scale, const at::Tensor& zero_point) {
  const auto elements = count_of(packing.rows);
  const auto rank = static_cast<std::int64_t>(packing.rows.size());
  const auto fits_axis = [&](const at::Tensor& vector) {
    return vector.dim() <= 1 &&
           (vector.numel() == 1 || (packing.axis >= 0 && packing.axis < rank &&
                                    vector.numel() == packing.rows[static_cast<std::size_t>(packing.axis)]));
  };
  const bool swaps = !packing.transposed || (packing.swapped_with > 0 &&
                                             packing.swapped_with < static_cast<std::int64_t>(packing.sizes.size()));
  if (elements < 0 || count_of(packing.sizes) != elements || !fits_axis(scale) || !fits_axis(zero_point) || !swaps)
    return false;
  if (packing.kind == "int4")
    return stored.scalar_type() == at::kByte && stored.dim() == 1 && stored.numel() == (elements + 1) / 2;
  return stored.scalar_type() == (packing.kind == "int8" ? at::kChar : at::kByte) &&
         stored.sizes() == at::IntArrayRef(packing.rows);
}

at::Tensor unpack(const at::Tensor& stored, const Packing& packing, const at::Tensor& scale,
                  const at::Tensor& zero_point) {
  const auto integers = packing.kind == "int4" ? unpack_integers(stored, packing.rows) : stored;
  return numbers_of(integers, packing, scale, zero_point);
}

}  // namespace checkpoint

PARE_NAMESPACE_END
