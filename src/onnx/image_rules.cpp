// Pooling and resizing.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string_view>

#include "onnx/rules.hpp"

PARE_NAMESPACE_BEGIN

namespace onnx {

namespace {

struct Window {
  Ints kernel, stride, padding;
};

// input, kernel, stride, padding, then what each kind has
Window window(const Emitter& out, const Node& node, std::size_t spatial) {
  if (out.type(node.input(0)).rank() != spatial + 2) Emitter::refuse(node, "the input has no batch dimension");
  Window result{spread(integers_of(node, 1), spatial), spread(integers_of(node, 2), spatial),
                spread(integers_of(node, 3), spatial)};
  if (result.stride.empty()) result.stride = result.kernel;
  return result;
}

Attributes attributes_of(const Window& window) {
  auto pads = window.padding;
  pads.insert(pads.end(), window.padding.begin(), window.padding.end());
  return {{"kernel_shape", window.kernel}, {"strides", window.stride}, {"pads", pads}};
}

// Whether sizes are rounded up. LibTorch leaves out a last window that starts behind the input and its padding, ONNX
// counts it: such sizes are written where rounding down gives them.
std::int64_t ceil_mode(const Emitter& out, const Node& node, const Window& window, const Ints& dilation, bool wanted) {
  if (!wanted) return 0;
  const auto& from = out.type(node.input(0)).sizes;
  const auto& to = out.type(node.outputs[0]).sizes;
  bool down = true, up = true;
  for (std::size_t d = 0; d < window.kernel.size(); ++d) {
    const auto reach = dilation[d] * (window.kernel[d] - 1) + 1, step = window.stride[d], pad = window.padding[d];
    const auto size = from[2 + d].constant(), pooled = to[2 + d].constant();
    if (size && pooled) {
      const auto last = *size + 2 * pad - reach;
      down = down && last >= 0 && *pooled == last / step + 1;
      up = up && *pooled == (last + step - 1) / step + 1;
    } else {
      down = down && step == 1;
      up = up && pad + step <= reach;
    }
  }
  if (!down && !up) Emitter::refuse(node, "ceil_mode with windows that start behind the input");
  return down ? 0 : 1;
}

template <std::size_t spatial>
void max_pool(Emitter& out, const Node& node) {
  if (node.outputs.size() > 1 && !out.graph().uses(node.outputs[1]).empty())
    Emitter::refuse(node, "the indices of the maxima are used");
  const auto windows = window(out, node, spatial);
  const auto dilation = spread(integers_of(node, 4), spatial);
  auto attributes = attributes_of(windows);
  attributes.emplace_back("dilations", dilation);
  attributes.emplace_back("ceil_mode",
                          ceil_mode(out, node, windows, dilation, node.operand(5).boolean().value_or(false)));
  out.result(node, "MaxPool", {out.input(node, 0)}, std::move(attributes));
}

template <std::size_t spatial>
void average_pool(Emitter& out, const Node& node) {
  const auto windows = window(out, node, spatial);
  auto attributes = attributes_of(windows);
  attributes.emplace_back("ceil_mode",
                          ceil_mode(out, node, windows, Ints(spatial, 1), node.operand(4).boolean().value_or(false)));
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

// The factor that the call was given for a spatial dimension. Some overloads take them one by one, others as a list.
std::optional<double> given_factor(const Node& node, std::size_t spatial, std::size_t d) {
  constexpr std::string_view names[] = {"scales_d", "scales_h", "scales_w"};
  const auto list = node.op.argument("scale_factors");
  const auto* listed = list < 0 ? nullptr : node.operand(static_cast<std::size_t>(list)).get<Operand::Doubles>();
  if (listed) return d < listed->size() ? std::optional(listed->at(d)) : std::nullopt;
  const auto position = node.op.argument(spatial == 1 ? "scales" : names[3 - spatial + d]);
  return position < 0 ? std::nullopt : node.operand(static_cast<std::size_t>(position)).number();
}

// The factors that the call was given, where the sizes that they were rounded to imply others.
std::vector<float> given_factors(const Emitter& out, const Node& node) {
  const auto& from = out.type(node.input(0)).sizes;
  const auto& to = out.type(node.output()).sizes;
  const auto spatial = from.size() - 2;
  // Dimensions that keep their size are copied, whatever the factor, and of images those that double it are doubled.
  const bool image = node.is("aten::upsample_nearest2d");
  const bool copies = image || node.op.base().find("linear") != std::string_view::npos;
  std::vector<float> factors{1, 1};
  bool rounded = false;
  for (std::size_t d = 0; d < spatial; ++d) {
    auto factor = given_factor(node, spatial, d);
    if (!factor) return {};
    const auto before = from[2 + d].constant(), after = to[2 + d].constant();
    if (copies && before && before == after) factor = 1;
    if (image && before && after && *after == 2 * *before) factor = 2;
    rounded |=
        !before || !after || std::abs(static_cast<double>(*before) * *factor - static_cast<double>(*after)) > 1e-3;
    factors.push_back(static_cast<float>(*factor));
  }
  return rounded ? factors : std::vector<float>();
}

// To fixed factors, or where there are none to the result's sizes.
void resize(Emitter& out, const Node& node, const std::vector<float>& factors, Attributes attributes) {
  Names inputs{out.input(node, 0), ""};
  if (factors.empty()) {
    inputs.insert(inputs.end(), {"", out.shape(out.type(node.output()).sizes)});
  } else {
    inputs.push_back(out.tensor(at::tensor(factors), "factors"));
  }
  out.result(node, "Resize", std::move(inputs), std::move(attributes));
}

// The index that LibTorch picks for each element along a spatial dimension: the operator's own answer on a line.
Ints picked(const Emitter& out, const Node& node, std::size_t spatial, std::size_t d, std::int64_t from,
            std::int64_t to) {
  const auto line = at::arange(from, out.type(node.output()).dtype == at::kDouble ? at::kDouble : at::kFloat);
  const auto factor = given_factor(node, spatial, d);
  const auto result = spatial == 1   ? at::upsample_nearest1d(line.view({1, 1, -1}), {to}, factor)
                      : spatial == 2 ? at::upsample_nearest2d(line.view({1, 1, -1, 1}), {to, 1}, factor)
                                     : at::upsample_nearest3d(line.view({1, 1, -1, 1, 1}), {to, 1, 1}, factor);
  const auto indices = result.flatten().to(at::kLong);
  return {indices.data_ptr<std::int64_t>(), indices.data_ptr<std::int64_t>() + to};
}

// What Resize picks: it divides by the quotient of the sizes, where LibTorch multiplies by its inverse.
Ints picked_by_resize(std::int64_t from, std::int64_t to) {
  const auto factor = static_cast<float>(to) / static_cast<float>(from);
  Ints indices;
  for (std::int64_t i = 0; i < to; ++i)
    indices.push_back(std::min(from - 1, static_cast<std::int64_t>(std::floor(static_cast<float>(i) / factor))));
  return indices;
}

// Where sizes are fixed and Resize would pick other elements, they are looked up, dimension by dimension.
void nearest(Emitter& out, const Node& node) {
  const auto& from = out.type(node.input(0)).sizes;
  const auto& to = out.type(node.output()).sizes;
  const auto spatial = from.size() - 2;
  std::vector<Ints> indices;
  bool agrees = true, fixed = true;
  for (std::size_t d = 0; d < spatial && fixed; ++d) {
    const auto before = from[2 + d].constant(), after = to[2 + d].constant();
    fixed = before && after;
    if (!fixed) break;
    indices.push_back(picked(out, node, spatial, d, *before, *after));
    agrees = agrees && indices.back() == picked_by_resize(*before, *after);
  }
  if (!fixed || agrees)
    return resize(out, node, fixed ? std::vector<float>() : given_factors(out, node),
                  {{"mode", std::string("nearest")},
                   {"coordinate_transformation_mode", std::string("asymmetric")},
                   {"nearest_mode", std::string("floor")}});
  auto name = out.input(node, 0);
  for (std::size_t d = 0; d < spatial; ++d) {
    Ints same(indices[d].size());
    std::iota(same.begin(), same.end(), 0);
    if (from[2 + d] == to[2 + d] && indices[d] == same) continue;
    name = out.call("Gather", {name, out.integers(indices[d])}, {{"axis", static_cast<std::int64_t>(2 + d)}});
  }
  out.alias(node, name);
}

void interpolate_by(Emitter& out, const Node& node, Attributes attributes) {
  const auto corners = node.operand("align_corners").boolean().value_or(false);
  attributes.emplace_back("coordinate_transformation_mode", std::string(corners ? "align_corners" : "half_pixel"));
  const auto factors = corners ? std::vector<float>() : given_factors(out, node);
  // ONNX Runtime copies there.
  if (!factors.empty() && out.type(node.input(0)).sizes == out.type(node.output()).sizes &&
      node.is("aten::upsample_bicubic2d"))
    Emitter::refuse(node, "a factor that leaves the sizes as they are");
  resize(out, node, factors, std::move(attributes));
}

void interpolate_linear(Emitter& out, const Node& node) {
  interpolate_by(out, node, {{"mode", std::string("linear")}});
}

void cubic(Emitter& out, const Node& node) {
  interpolate_by(out, node, {{"mode", std::string("cubic")}, {"cubic_coeff_a", -0.75F}});
}

// A kernel that picks each element of a window into a channel of its own: [k, 1, window...].
std::string window_kernel(Emitter& out, const Ints& window, c10::ScalarType dtype) {
  std::int64_t count = 1;
  for (const auto size : window) count *= size;
  Ints sizes{count, 1};
  sizes.insert(sizes.end(), window.begin(), window.end());
  return out.tensor(at::eye(count, at::TensorOptions().dtype(dtype)).reshape(sizes), "window");
}

struct Patches {
  Attributes attributes;
  Ints kernel;
};

// kernel, dilation, padding, stride from an argument on
Patches patches_at(const Node& node, std::size_t first) {
  const auto kernel = spread(integers_of(node, first), 2), padding = spread(integers_of(node, first + 2), 2);
  return {{{"kernel_shape", kernel},
           {"dilations", spread(integers_of(node, first + 1), 2)},
           {"pads", Ints{padding[0], padding[1], padding[0], padding[1]}},
           {"strides", spread(integers_of(node, first + 3), 2)}},
          kernel};
}

// [N, C, H, W] -> [N C, 1, H, W] -> [N C, k, L] -> [N, C k, L]
void take_patches(Emitter& out, const Node& node) {
  const auto& from = out.type(node.input(0)).sizes;
  const auto& to = out.type(node.output()).sizes;
  if (from.size() != 4) Emitter::refuse(node, "the input has no batch dimension");
  const auto height = from[2].constant(), width = from[3].constant(), rows = to[1].constant();
  if (!height || !width || !rows) Emitter::refuse(node, "the image's sizes are not fixed");
  auto at = patches_at(node, 1);
  const auto planes = out.call("Reshape", {out.input(node, 0), out.integers({-1, 1, *height, *width})});
  const auto kernel = window_kernel(out, at.kernel, out.type(node.output()).dtype);
  const auto patches = out.call("Conv", {planes, kernel}, std::move(at.attributes));
  const auto places = to[2].constant();
  if (!places) Emitter::refuse(node, "the number of patches is not fixed");
  out.result(node, "Reshape", {patches, out.integers({-1, *rows, *places})});
}

// The reverse, where what overlaps is summed.
void put_patches(Emitter& out, const Node& node) {
  const auto& from = out.type(node.input(0)).sizes;
  const auto& to = out.type(node.output()).sizes;
  if (from.size() != 3) Emitter::refuse(node, "the input has no batch dimension");
  const auto height = to[2].constant(), width = to[3].constant(), channels = to[1].constant();
  if (!height || !width || !channels) Emitter::refuse(node, "the image's sizes are not fixed");
  auto at = patches_at(node, 2);
  Ints grid, left;
  for (std::size_t d = 0; d < 2; ++d) {
    const auto stride = spread(integers_of(node, 5), 2)[d];
    const auto reach = spread(integers_of(node, 3), 2)[d] * (at.kernel[d] - 1) + 1;
    const auto padded = *to[2 + d].constant() + 2 * spread(integers_of(node, 4), 2)[d];
    grid.push_back((padded - reach) / stride + 1);
    left.push_back((padded - reach) % stride);
  }
  at.attributes.emplace_back("output_padding", left);
  const auto window = at.kernel[0] * at.kernel[1];
  const auto planes = out.call("Reshape", {out.input(node, 0), out.integers({-1, window, grid[0], grid[1]})});
  const auto kernel = window_kernel(out, at.kernel, out.type(node.output()).dtype);
  const auto images = out.call("ConvTranspose", {planes, kernel}, std::move(at.attributes));
  out.result(node, "Reshape", {images, out.integers({-1, *channels, *height, *width})});
}

// Windows along one dimension, which come last.
void slide(Emitter& out, const Node& node) {
  const auto& from = out.type(node.input(0)).sizes;
  const auto dim = dim_of(node, 1, from.size());
  const auto length = from[static_cast<std::size_t>(dim)].constant();
  if (!length) Emitter::refuse(node, "the size that it slides along varies");
  const auto size = integer_of(node, 2), step = integer_of(node, 3);
  const auto starts = at::arange(0, *length - size + 1, step, at::kLong);
  const auto positions = starts.unsqueeze(1) + at::arange(size, at::kLong);
  const auto windows = out.call("Gather", {out.input(node, 0), out.tensor(positions, "windows")}, {{"axis", dim}});
  Ints order;  // what the windows hold stands at dim + 1, and goes to the end
  for (std::int64_t d = 0; d <= static_cast<std::int64_t>(from.size()); ++d)
    if (d != dim + 1) order.push_back(d);
  order.push_back(dim + 1);
  out.result(node, "Transpose", {windows}, {{"perm", order}});
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
    {"aten::adaptive_max_pool3d", adaptive_pool},
    {"aten::upsample_nearest1d", nearest},
    {"aten::upsample_nearest2d", nearest},
    {"aten::upsample_nearest3d", nearest},
    {"aten::upsample_linear1d", interpolate_linear},
    {"aten::upsample_bilinear2d", interpolate_linear},
    {"aten::upsample_trilinear3d", interpolate_linear},
    {"aten::upsample_bicubic2d", cubic},
    {"aten::im2col", take_patches},
    {"aten::col2im", put_patches},
    {"aten::unfold", slide},
};

}  // namespace

std::span<const RuleEntry> image_rules() { return kImageRules; }

}  // namespace onnx

PARE_NAMESPACE_END
