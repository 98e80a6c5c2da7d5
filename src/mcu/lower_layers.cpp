#include "mcu/lowering.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "pare/graph/weight_axis.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

Lowering::Kernel Lowering::kernel_of(const FusedRegion& region, const Node& anchor) const {
  const Node* quantizer = nullptr;
  for (const auto id : region.weight_nodes)
    if (family_of(graph_.node(id).op) == OpFamily::FakeQuantize) quantizer = &graph_.node(id);
  const auto axis = output_axis(graph_, region);
  if (region.weight != kNoValue && !c10::isFloatingType(graph_.value(region.weight).type.dtype))
    fail("pare.mcu.102", anchor.name, "its weights are a mapped file's integers: take the model of load_checkpoint");
  if (!quantizer || !axis) fail("pare.mcu.102", anchor.name, "its weights are not quantized");
  auto weight = model_.weight(region.weight).detach().to(at::kDouble).transpose(0, *axis).contiguous();
  const auto channels = weight.size(0);
  at::Tensor scale, zero_point;
  if (quantizer->op.base() == "aten::fake_quantize_per_channel_affine") {
    scale = model_.weight(quantizer->input(1)).to(at::kDouble).flatten();
    zero_point = model_.weight(quantizer->input(2));
    if (quantizer->operand("axis").integer() != *axis) refuse(anchor, "scales along another axis than its outputs");
  } else {
    scale = at::full({1}, quantizer->operand(1).number().value_or(1), at::kDouble);
    zero_point = at::full({1}, quantizer->operand(2).integer().value_or(1), at::kLong);
  }
  const auto low = quantizer->operand("quant_min").integer().value_or(-999);
  const auto high = quantizer->operand("quant_max").integer().value_or(999);
  if (low < -128 || high > 127 || zero_point.ne(0).any().item<bool>() ||
      (scale.numel() != 1 && scale.numel() != channels))
    refuse(anchor, "weights that are not symmetric int8 with one scale a channel");
  Kernel kernel;
  scale = scale.expand({channels}).contiguous();
  auto shape = std::vector<std::int64_t>(static_cast<std::size_t>(weight.dim()), 1);
  shape[0] = channels;
  kernel.integers = at::round(weight / scale.view(shape))
                        .clamp(static_cast<double>(low), static_cast<double>(high))
                        .to(at::kChar)
                        .contiguous();
  kernel.scales.assign(scale.data_ptr<double>(), scale.data_ptr<double>() + channels);
  if (region.bias != kNoValue) {
    if (graph_.value(region.bias).kind != ValueKind::Weight) refuse(anchor, "a bias that is computed");
    kernel.bias = model_.weight(region.bias).detach().to(at::kDouble).flatten().contiguous();
    if (kernel.bias.numel() != channels) refuse(anchor, "a bias of another size than its outputs");
  }
  return kernel;
}

// Scale, zero point, clamps and the arena's buffer of a weighted step's result.
void Lowering::finish(const FusedRegion& region, const Node& anchor, const Kernel& kernel, Step step) {
  const auto& input = step.inputs[0];
  const auto* quantizer = quantizer_of(anchor, region.output);
  const auto channels = kernel.integers.size(0);
  const auto sums = kernel.integers.to(at::kLong).abs().flatten(1).sum(1);
  RealScale real;
  for (std::int64_t c = 0; c < channels; ++c) {
    real.factors.push_back(input.qparams.scale * kernel.scales[static_cast<std::size_t>(c)]);
    real.offsets.push_back(kernel.bias.defined() ? kernel.bias[c].item<double>() : 0.0);
    real.largest.push_back(sums[c].item<std::int64_t>() * 255);
    if (real.largest.back() > std::numeric_limits<std::int32_t>::max()) refuse(anchor, "its sums may leave 32 bits");
  }
  step.output.shape = shape_of(region.output);
  double unit = 1.0;
  if (quantizer) {
    step.output.qparams = qparams_of(*quantizer);
    unit = step.output.qparams.scale;
  } else {
    const auto zero = [](auto number) { return number == 0; };
    if (std::ranges::all_of(real.largest, zero) && std::ranges::all_of(real.offsets, zero))
      refuse(anchor, "all of the last layer's weights and biases are zero");
    unit = output_unit(real);
    if (region.residual != kNoValue || step.kind != StepKind::Linear)
      refuse(anchor, "only a linear layer can be the last one");
    program_.output_scale = unit;
    program_.outputs = step.output.shape.size();
    step.output.place = Place::Output;
  }
  for (auto& factor : real.factors) factor /= unit;
  for (auto& offset : real.offsets)
    offset = offset / unit + (quantizer ? static_cast<double>(step.output.qparams.zero_point) : 0.0);
  if (region.residual != kNoValue) {
    step.inputs.push_back(unpadded(anchor, region.residual));
    real.residual = step.inputs[1].qparams.scale / unit;
  }
  store(anchor, real, step);
  if (quantizer) {
    clamp(region, anchor, step);
    step.output.place = new_buffer(step.output.shape.size());
    step.value = quantizer->output();
    known_[pare::index(step.value)] = step.output;
  } else if (region.activation != kNoNode) {
    refuse(anchor, "an activation behind the last layer");
  }
  const auto flat = kernel.integers.flatten();
  step.weights.assign(flat.data_ptr<std::int8_t>(), flat.data_ptr<std::int8_t>() + flat.numel());
  program_.steps.push_back(std::move(step));
}

// A power of two at which every score is below 2^30.
double Lowering::output_unit(const RealScale& real) {
  double furthest = 1e-30;
  for (std::size_t c = 0; c < real.factors.size(); ++c)
    furthest = std::max(furthest, real.factors[c] * static_cast<double>(real.largest[c]) + std::abs(real.offsets[c]));
  return std::ldexp(1.0, static_cast<int>(std::ceil(std::log2(furthest))) - 30);
}

void Lowering::store(const Node& anchor, const RealScale& real, Step& step) {
  const auto fixed = fixed_point(real);
  if (!fixed.fits) refuse(anchor, "its scales are too far apart for 64-bit sums");
  step.shift = fixed.shift;
  step.multipliers = fixed.multipliers;
  step.offsets = fixed.offsets;
  step.residual_multiplier = fixed.residual;
}

// An activation between layer and quantization is a clamp of the integers.
void Lowering::clamp(const FusedRegion& region, const Node& anchor, Step& step) const {
  const auto& qparams = step.output.qparams;
  step.low = qparams.quant_min, step.high = qparams.quant_max;
  if (region.activation == kNoNode) return;
  const auto& node = graph_.node(region.activation);
  const auto base = node.op.base();
  const auto integer = [&](double real) {
    const auto value = std::nearbyint(real / qparams.scale) + static_cast<double>(qparams.zero_point);
    return static_cast<std::int64_t>(
        std::clamp(value, static_cast<double>(qparams.quant_min), static_cast<double>(qparams.quant_max)));
  };
  const auto bound = [&](std::string_view argument, std::int64_t otherwise) {
    const auto& operand = node.operand(argument);
    if (operand.is_none()) return otherwise;
    if (!operand.number()) refuse(node, "a bound that is computed");
    return integer(*operand.number());
  };
  if (base == "aten::relu") {
    step.low = integer(0);
  } else if (base == "aten::relu6") {
    step.low = integer(0), step.high = integer(6);
  } else if (base == "aten::hardtanh") {
    step.low = bound("min_val", step.low), step.high = bound("max_val", step.high);
  } else if (base == "aten::clamp") {
    step.low = bound("min", step.low), step.high = bound("max", step.high);
  } else if (base == "aten::clamp_min") {
    step.low = bound("min", step.low);
  } else {
    refuse(node, "no integer form of this activation behind {}", anchor.op.name());
  }
}

void Lowering::convolution(const FusedRegion& region, const Node& anchor, Step step) {
  const auto rank = graph_.value(anchor.input(1)).type.rank();
  if (rank != 3 && rank != 4) refuse(anchor, "only one- and two-dimensional convolutions");
  if (graph_.value(region.inputs.at(0)).type.rank() != rank) refuse(anchor, "its input has no batch");
  if (anchor.operand("padding").get<std::string>()) refuse(anchor, "padding by name");
  step.kind = StepKind::Convolution;
  step.inputs = {activation(anchor, region.inputs.at(0))};
  const auto kernel = kernel_of(region, anchor);
  auto strides = spread(anchor, "stride", 1), dilations = spread(anchor, "dilation", 1);
  auto padding = spread(anchor, "padding", 0);
  if (rank == 3) strides[0] = dilations[0] = 1, padding[0] = 0;
  step.kernel_height = rank == 4 ? kernel.integers.size(2) : 1;
  step.kernel_width = kernel.integers.size(rank == 4 ? 3 : 2);
  step.stride_height = strides[0], step.stride_width = strides[1];
  step.dilation_height = dilations[0], step.dilation_width = dilations[1];
  step.pad_top = padding[0] + step.inputs[0].pad_top;
  step.pad_left = padding[1] + step.inputs[0].pad_left;
  step.groups = groups_of(graph_, region);
  finish(region, anchor, kernel, std::move(step));
}

void Lowering::linear(const FusedRegion& region, const Node& anchor, Step step) {
  step.kind = StepKind::Linear;
  step.inputs = {unpadded(anchor, region.inputs.at(0))};
  const auto kernel = kernel_of(region, anchor);
  const auto& shape = step.inputs[0].shape;
  if (shape.height != 1 || shape.width != 1 || shape.channels != kernel.integers.size(1))
    refuse(anchor, "its input is not one vector");
  if (anchor.is("aten::addmm") && (anchor.operand("beta").number() != 1.0 || anchor.operand("alpha").number() != 1.0))
    refuse(anchor, "factors other than 1");
  finish(region, anchor, kernel, std::move(step));
}

// The rest of a step without weights: result, scales.
void Lowering::finish_plain(const FusedRegion& region, const Node& anchor, RealScale real, Step step) {
  const auto* quantizer = quantizer_of(anchor, region.output);
  if (!quantizer) fail("pare.mcu.102", anchor.name, "the model's output is not that of a linear layer");
  step.output.qparams = qparams_of(*quantizer);
  step.output.shape = shape_of(region.output);
  for (auto& factor : real.factors) factor /= step.output.qparams.scale;
  for (auto& offset : real.offsets) offset = static_cast<double>(step.output.qparams.zero_point);
  store(anchor, real, step);
  clamp(region, anchor, step);
  step.output.place = new_buffer(step.output.shape.size());
  step.value = quantizer->output();
  known_[pare::index(step.value)] = step.output;
  program_.steps.push_back(std::move(step));
}

void Lowering::average_pool(const FusedRegion& region, const Node& anchor, Step step) {
  step.kind = StepKind::AveragePool;
  step.inputs = {unpadded(anchor, region.inputs.at(0))};
  const auto& from = step.inputs[0].shape;
  if (anchor.is("aten::avg_pool2d") || anchor.is("aten::avg_pool1d")) {
    window(anchor, step);
    const bool divides_by_area = anchor.is("aten::avg_pool1d") || anchor.operand("divisor_override").is_none();
    if (anchor.operand("ceil_mode").boolean().value_or(true) || !divides_by_area ||
        ((step.pad_top != 0 || step.pad_left != 0) && !anchor.operand("count_include_pad").boolean().value_or(false)))
      refuse(anchor, "windows of different sizes");
  } else if (covers_channels(anchor, shape_of(region.output))) {
    step.kernel_height = step.stride_height = from.height;
    step.kernel_width = step.stride_width = from.width;
  } else {
    refuse(anchor, "only a mean over whole channels, avg_pool1d or avg_pool2d");
  }
  const auto area = step.kernel_height * step.kernel_width;
  RealScale real{{step.inputs[0].qparams.scale / static_cast<double>(area)}, {0.0}, {area * 255}, 0.0};
  finish_plain(region, anchor, std::move(real), std::move(step));
}

// A mean over height and width, all of both and nothing else, however it is written.
bool Lowering::covers_channels(const Node& node, const Shape& result) const {
  const auto rank = static_cast<std::int64_t>(graph_.value(node.input(0)).type.rank());
  if (rank != 3 && rank != 4) return false;
  if (!node.is("aten::mean"))
    return result.height * result.width == 1 &&
           node.op.base() == (rank == 4 ? "aten::adaptive_avg_pool2d" : "aten::adaptive_avg_pool1d");
  auto dims = node.operand("dim").integers().value_or(std::vector<std::int64_t>{});
  for (auto& dim : dims) dim += dim < 0 ? rank : 0;
  std::ranges::sort(dims);
  return dims == (rank == 4 ? std::vector<std::int64_t>{2, 3} : std::vector<std::int64_t>{2});
}

void Lowering::add(const FusedRegion& region, const Node& anchor, Step step) {
  step.kind = StepKind::Add;
  const auto factor = anchor.operand(2).number().value_or(0) * (anchor.is("aten::sub") ? -1 : 1);
  for (const auto value : region.inputs) step.inputs.push_back(unpadded(anchor, value));
  if (!(step.inputs[0].shape == step.inputs[1].shape)) refuse(anchor, "summands of different sizes");
  RealScale real{{step.inputs[0].qparams.scale, step.inputs[1].qparams.scale * factor}, {0.0, 0.0}, {510, 510}, 0.0};
  finish_plain(region, anchor, std::move(real), std::move(step));
}

void Lowering::concatenate(const FusedRegion& region, const Node& anchor) {
  const auto dim = anchor.operand(1).integer();
  const auto rank = static_cast<std::int64_t>(graph_.value(region.output).type.rank());
  if (!anchor.is("aten::cat") || !dim || (*dim != 1 && *dim != 1 - rank)) refuse(anchor, "only channels can be joined");
  Activation result{new_buffer(0), unpadded(anchor, region.inputs.at(0)).qparams, shape_of(region.output)};
  program_.buffer_sizes.back() = result.shape.size();
  std::int64_t target = 0;
  for (const auto value : region.inputs) {
    Step step;
    step.kind = StepKind::Copy;
    step.name = anchor.name;
    step.inputs = {unpadded(anchor, value)};
    if (!(step.inputs[0].qparams == result.qparams)) refuse(anchor, "parts of different scales");
    step.output = result;
    step.target = target;
    target += step.inputs[0].shape.size();
    if (target == result.shape.size()) step.value = region.output;
    program_.steps.push_back(std::move(step));
  }
  known_[pare::index(region.output)] = result;
}

}  // namespace mcu

PARE_NAMESPACE_END
