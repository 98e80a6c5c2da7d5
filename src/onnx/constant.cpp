#include "onnx/constant.hpp"

#include <ATen/ATen.h>

#include <utility>

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

// A vector along one axis, shaped to broadcast over a tensor of `rank` dims.
at::Tensor along(const at::Tensor& vector, std::int64_t axis, std::int64_t rank) {
  if (vector.dim() == 0) return vector;
  std::vector<std::int64_t> shape(static_cast<std::size_t>(rank), 1);
  shape[static_cast<std::size_t>(axis)] = vector.size(0);
  return vector.view(shape);
}

std::int64_t wrapped(std::int64_t dim, std::int64_t rank) { return dim < 0 ? dim + rank : dim; }

// Rows of one group each become `[channels, features]` again: scales in blocks along the features.
std::optional<IntegerForm> regrouped(const IntegerForm& form, const at::Tensor& integers) {
  if (form.block != 0 || form.axis != 0 || form.integers.dim() != 2 || form.scale.dim() != 1) return std::nullopt;
  const auto size = form.integers.size(1);
  if (integers.dim() != 2 || size == 0 || integers.size(1) % size != 0) return std::nullopt;
  const auto groups = integers.size(1) / size;
  if (integers.size(0) * groups != form.scale.size(0)) return std::nullopt;
  auto result = form;
  result.integers = integers;
  result.scale = form.scale.view({-1, groups});
  result.zero_point = form.zero_point.view({-1, groups});
  result.axis = 1;
  result.block = size;
  return result;
}

}  // namespace

std::optional<IntegerForm> integer_form(const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& zero_point,
                                        std::int64_t axis, std::int64_t quant_min, std::int64_t quant_max) {
  const bool is_signed = quant_min >= -128 && quant_max <= 127;
  if (!is_signed && (quant_min < 0 || quant_max > 255)) return std::nullopt;
  const auto dtype = is_signed ? at::kChar : at::kByte;
  IntegerForm form;
  form.axis = axis;
  form.scale = scale.to(at::kFloat).contiguous();
  form.zero_point = zero_point.to(dtype).contiguous();
  form.four_bits = quant_min >= -8 && quant_max <= 7;
  const auto inverse = form.scale.reciprocal();
  const auto scaled = weight.to(at::kFloat) * along(inverse, axis, weight.dim());
  const auto shifted = at::round(scaled) + along(zero_point.to(at::kFloat), axis, weight.dim());
  form.integers = shifted.clamp(static_cast<double>(quant_min), static_cast<double>(quant_max)).to(dtype).contiguous();
  return form;
}

std::optional<IntegerForm> moved(const Graph& graph, const Node& node, const IntegerForm& form,
                                 const at::Tensor& integers) {
  const auto rank = static_cast<std::int64_t>(graph.value(node.input(0)).type.rank());
  auto result = form;
  result.integers = integers.contiguous();
  if (form.scale.dim() == 0) return result;
  const auto swap = [&](std::int64_t a, std::int64_t b) {
    a = wrapped(a, rank), b = wrapped(b, rank);
    if (form.axis == a || form.axis == b) result.axis = form.axis == a ? b : a;
    if (form.block != 0) {
      result.scale = form.scale.transpose(a, b).contiguous();
      result.zero_point = form.zero_point.transpose(a, b).contiguous();
    }
  };
  if (node.is("aten::t") || node.is("aten::numpy_T")) {
    if (rank == 2) swap(0, 1);
    return rank <= 2 ? std::optional(result) : std::nullopt;
  }
  if (node.is("aten::transpose")) {
    const auto a = node.operand(1).integer(), b = node.operand(2).integer();
    if (!a || !b) return std::nullopt;
    swap(*a, *b);
    return result;
  }
  if (node.is("aten::contiguous") || node.is("aten::alias") || node.is("aten::detach")) return result;
  if (node.is("aten::reshape") || node.is("aten::view")) return regrouped(form, integers.contiguous());
  return std::nullopt;
}

at::Tensor dequantized(const IntegerForm& form) {
  auto scale = form.scale, zero_point = form.zero_point.to(at::kFloat);
  if (form.block != 0) {
    scale = scale.repeat_interleave(form.block, form.axis);
    zero_point = zero_point.repeat_interleave(form.block, form.axis);
  } else {
    scale = along(scale, form.axis, form.integers.dim());
    zero_point = along(zero_point, form.axis, form.integers.dim());
  }
  return (form.integers.to(at::kFloat) - zero_point) * scale;
}

}  // namespace onnx

PARE_NAMESPACE_END
