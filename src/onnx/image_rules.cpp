// Pooling and resizing.
#include <ATen/ATen.h>

#include <algorithm>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

// input, kernel, stride, padding, then what each kind has
Attributes window(const Emitter& out, const Node& node, std::size_t spatial) {
  if (out.type(node.input(0)).rank() != spatial + 2) Emitter::refuse(node, "the input has no batch dimension");
  const auto kernel = spread(integers_of(node, 1), spatial);
  auto stride = spread(integers_of(node, 2), spatial);
  if (stride.empty()) stride = kernel;
  const auto before = spread(integers_of(node, 3), spatial);
  auto pads = before;
  pads.insert(pads.end(), before.begin(), before.end());
  return {{"kernel_shape", kernel}, {"strides", stride}, {"pads", pads}};
}

template <std::size_t spatial>
void max_pool(Emitter& out, const Node& node) {
  if (node.outputs.size() > 1 && !out.graph().uses(node.outputs[1]).empty())
    Emitter::refuse(node, "the indices of the maxima are used");
  auto attributes = window(out, node, spatial);
  attributes.emplace_back("dilations", spread(integers_of(node, 4), spatial));
  attributes.emplace_back("ceil_mode", std::int64_t{node.operand(5).boolean().value_or(false)});
  out.result(node, "MaxPool", {out.input(node, 0)}, std::move(attributes));
}

template <std::size_t spatial>
void average_pool(Emitter& out, const Node& node) {
  auto attributes = window(out, node, spatial);
  attributes.emplace_back("ceil_mode", std::int64_t{node.operand(4).boolean().value_or(false)});
  attributes.emplace_back("count_include_pad", std::int64_t{node.operand(5).boolean().value_or(true)});
  if (node.operands.size() > 6 && !node.operand(6).is_none()) Emitter::refuse(node, "a divisor of its own");
  out.result(node, "AveragePool", {out.input(node, 0)}, std::move(attributes));
}

// Windows of one size each, where the output's sizes divide the input's.
void adaptive_pool(Emitter& out, const Node& node) {
  const bool is_max = node.op.base().find("max") != std::string_view::npos;
  const auto& from = out.type(node.input(0)).sizes;
  const auto& to = out.type(node.output()).sizes;
  if (from.size() < 3 || !(from[0] == to[0])) Emitter::refuse(node, "the input has no batch dimension");
  if (node.outputs.size() > 1 && !out.graph().uses(node.outputs[1]).empty())
    Emitter::refuse(node, "the indices of the maxima are used");
  if (std::all_of(to.begin() + 2, to.end(), [](const SymbolicInt& size) { return size == SymbolicInt(1); })) {
    out.result(node, is_max ? "GlobalMaxPool" : "GlobalAveragePool", {out.input(node, 0)});
    return;
  }
  if (from == to) return out.alias(node, out.input(node, 0));
  Ints kernel;
  for (std::size_t d = 2; d < from.size(); ++d) {
    const auto size = from[d].constant(), wanted = to[d].constant();
    if (!size || !wanted || *wanted == 0 || *size % *wanted != 0)
      Emitter::refuse(node, "windows of different sizes along dimension {}", d);
    kernel.push_back(*size / *wanted);
  }
  out.result(node, is_max ? "MaxPool" : "AveragePool", {out.input(node, 0)},
             {{"kernel_shape", kernel}, {"strides", kernel}});
}

void resize(Emitter& out, const Node& node, Attributes attributes) {
  const auto sizes = out.shape(out.type(node.output()).sizes);
  out.result(node, "Resize", {out.input(node, 0), "", "", sizes}, std::move(attributes));
}

void nearest(Emitter& out, const Node& node) {
  resize(out, node,
         {{"mode", std::string("nearest")},
          {"coordinate_transformation_mode", std::string("asymmetric")},
          {"nearest_mode", std::string("floor")}});
}

void interpolate_linear(Emitter& out, const Node& node) {
  const auto corners = node.operand("align_corners").boolean().value_or(false);
  resize(out, node,
         {{"mode", std::string("linear")},
          {"coordinate_transformation_mode", std::string(corners ? "align_corners" : "half_pixel")}});
}

void cubic(Emitter& out, const Node& node) {
  const auto corners = node.operand("align_corners").boolean().value_or(false);
  resize(out, node,
         {{"mode", std::string("cubic")},
          {"cubic_coeff_a", -0.75F},
          {"coordinate_transformation_mode", std::string(corners ? "align_corners" : "half_pixel")}});
}

constexpr RuleEntry kImageRules[] = {
    {"aten::max_pool1d", max_pool<1>},
    {"aten::max_pool2d", max_pool<2>},
    {"aten::max_pool3d", max_pool<3>},
    {"aten::max_pool2d_with_indices", max_pool<2>},
    {"aten::avg_pool1d", average_pool<1>},
    {"aten::avg_pool2d", average_pool<2>},
    {"aten::avg_pool3d", average_pool<3>},
    {"aten::adaptive_avg_pool1d", adaptive_pool},
    {"aten::adaptive_avg_pool2d", adaptive_pool},
    {"aten::adaptive_avg_pool3d", adaptive_pool},
    {"aten::adaptive_max_pool1d", adaptive_pool},
    {"aten::adaptive_max_pool2d", adaptive_pool},
    {"aten::upsample_nearest1d", nearest},
    {"aten::upsample_nearest2d", nearest},
    {"aten::upsample_nearest3d", nearest},
    {"aten::upsample_linear1d", interpolate_linear},
    {"aten::upsample_bilinear2d", interpolate_linear},
    {"aten::upsample_trilinear3d", interpolate_linear},
    {"aten::upsample_bicubic2d", cubic},
};

}  // namespace

std::span<const RuleEntry> image_rules() { return kImageRules; }

}  // namespace onnx

PARE_NAMESPACE_END
