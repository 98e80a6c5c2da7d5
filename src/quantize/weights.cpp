#include "weights.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "graph/layer_pattern.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/weight_axis.hpp"
#include "pare/numerics/compensated_rounding.hpp"
#include "pare/numerics/exact_scales.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::string_view kPerTensor = "aten::fake_quantize_per_tensor_affine";

// A weight as `[output channels, everything else]`, whatever its layout; one row where only a view gives it channels.
at::Tensor channels_first(const at::Tensor& weight, std::int64_t axis) {
  if (weight.dim() < 2) return weight.reshape({1, -1});
  return weight.transpose(0, axis).flatten(1).contiguous();
}

at::Tensor channels_back(const at::Tensor& rows, std::int64_t axis, at::IntArrayRef sizes) {
  if (sizes.size() < 2) return rows.reshape(sizes);
  auto swapped = sizes.vec();
  std::swap(swapped[0], swapped[static_cast<std::size_t>(axis)]);
  return rows.reshape(swapped).transpose(0, axis).contiguous();
}

/// The scales of one weight: `matrix` is the weight cut into rows that have a scale each.
struct Scales {
  RowQParams rows;
  std::int64_t per_channel = 1;  // rows in an output channel
  bool whole = false;            // one row for the whole weight
};

Scales choose(const at::Tensor& channels, const QuantizationSettings& settings, const IntegerGrid& grid,
              bool per_tensor, std::string_view path) {
  try {
    if (per_tensor) return {settings.weight_observer(channels.reshape({1, -1}), grid), 1, true};
    if (const auto* group = std::get_if<PerGroup>(&settings.granularity)) {
      if (channels.size(1) % group->size == 0 && channels.size(1) > group->size)
        return {settings.weight_observer(channels.reshape({-1, group->size}), grid), channels.size(1) / group->size,
                false};
    }
    return {settings.weight_observer(channels, grid), 1, false};
  } catch (const Error& error) {
    if (error.id() != "pare.numerics.101") throw;
    fail("pare.quantize.101", path, "this weight holds NaN or infinities; nothing can be quantized with it");
  }
}

// The scale of every output channel's every group, `[channels, groups]`.
at::Tensor by_channel(const at::Tensor& rows, const Scales& scales, std::int64_t channels) {
  return scales.whole ? rows.expand({channels}).reshape({channels, 1}) : rows.reshape({channels, scales.per_channel});
}

at::Tensor nearest(const at::Tensor& channels, const Scales& scales, const IntegerGrid& grid) {
  const auto rows = scales.rows.scale.size(0);
  return fake_quantize(channels.reshape({rows, -1}), scales.rows, grid).reshape(channels.sizes());
}

// Error-compensated rounding, group of channels by group of channels.
at::Tensor compensated(const at::Tensor& channels, const Scales& scales, const IntegerGrid& grid,
                       const MatrixForm& form, const at::Tensor& covariance) {
  const auto scale = by_channel(scales.rows.scale, scales, channels.size(0)).contiguous();
  const auto zero_point = by_channel(scales.rows.zero_point, scales, channels.size(0)).contiguous();
  auto rounded = at::empty_like(channels);
  const CompensatedRounding round;
  const auto round_groups = [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;
    for (auto group = begin; group < end; ++group) {
      const auto of_group = [&](const at::Tensor& rows) { return rows.narrow(0, group * form.outputs, form.outputs); };
      of_group(rounded).copy_(
          round(of_group(channels), covariance[group], of_group(scale), of_group(zero_point), grid));
    }
  };
  if (form.groups == 1)  // whose own loops are for all threads
    round_groups(0, 1);
  else
    at::parallel_for(0, form.groups, 1, round_groups);
  return rounded;
}

// Scales that are at least so large. A channel without weights has no scale of its own: it takes the one that its bias
// is told finest with.
void raise(Scales& scales, const at::Tensor& smallest, const at::Tensor& channels) {
  const auto least = (scales.whole ? smallest.max().reshape({1}) : smallest).to(scales.rows.scale.options());
  if (least.numel() != scales.rows.scale.numel()) return;
  auto& scale = scales.rows.scale;
  scale = at::maximum(scale, least);
  if (!scales.whole && channels.numel() > 0)
    scale = at::where(channels.flatten(1).abs().amax(1).eq(0) & least.gt(1e-30), least, scale);
}

}  // namespace

WeightQuantizer::WeightQuantizer(Model& model, Context& context, const QuantizationSettings& settings,
                                 const std::vector<Layer>& layers)
    : model_(model), context_(context), settings_(settings) {
  for (const auto& layer : layers)
    if (const auto bits = named_bits(layer.region.anchor))
      for (const auto& [weight, reader] : readings(layer)) tied_.emplace(weight, *bits);
  std::map<ValueId, std::set<Key>> ways;
  std::map<ValueId, std::set<NodeId>> readers;
  for (const auto& layer : layers)
    for (const auto& [weight, reader] : readings(layer)) {
      ways[weight].insert(key_of(weight, way_of(layer)));
      readers[weight].insert(reader);
    }
  for (const auto& [weight, keys] : ways) {
    const auto& known = readers.at(weight);
    const bool all =
        std::ranges::all_of(model.graph().uses(weight), [&](const Use& use) { return known.contains(use.node); });
    if (!all || keys.size() > 1) kept_.insert(weight);
  }
}

bool WeightQuantizer::is_recurrent_matrix(ValueId value) const {
  const auto& held = model_.graph().value(value);
  return held.kind == ValueKind::Weight && held.type.rank() == 2 && held.type.dtype == c10::ScalarType::Float;
}

// The weights that a layer has rounded, each with the first node on the way to the layer's anchor.
std::vector<std::pair<ValueId, NodeId>> WeightQuantizer::readings(const Layer& layer) const {
  std::vector<std::pair<ValueId, NodeId>> result;
  const auto& region = layer.region;
  if (layer.arithmetic == Arithmetic::Float) return result;
  if (region.family == OpFamily::Recurrent) {
    for (const auto& operand : model_.graph().node(region.anchor).operands)
      operand.each_value([&](ValueId value) {
        if (is_recurrent_matrix(value)) result.emplace_back(value, region.anchor);
      });
  } else if (region.weight != kNoValue) {
    result.emplace_back(region.weight, region.weight_nodes.empty() ? region.anchor : region.weight_nodes.front());
  }
  return result;
}

std::optional<Bits> WeightQuantizer::named_bits(NodeId layer) const {
  const auto* bits = wish_for(model_.graph().node(layer), settings_.layer_weights);
  return bits == nullptr ? std::nullopt : std::optional(*bits);
}

IntegerGrid WeightQuantizer::grid(Bits bits) const {
  return settings_.symmetric_weights ? IntegerGrid::signed_symmetric(bits) : IntegerGrid::signed_affine(bits);
}

WeightQuantizer::Way WeightQuantizer::way_of(const Layer& layer) const {
  const auto& region = layer.region;
  const auto tied = tied_.find(region.weight);
  Way way{.per_tensor = std::holds_alternative<PerTensor>(settings_.granularity),
          .bits = named_bits(region.anchor).value_or(tied == tied_.end() ? settings_.weights : tied->second)};
  if (region.family == OpFamily::Recurrent) return way;
  const auto axis = output_axis(model_.graph(), region);
  const bool shared_channels =
      region.family == OpFamily::TransposedConvolution && groups_of(model_.graph(), region) > 1;
  way.axis = axis.value_or(0);
  way.per_tensor = way.per_tensor || !axis || shared_channels;
  return way;
}

const WeightQuantizer::Placed& WeightQuantizer::place(ValueId weight, const Way& way) {
  const auto axis = way.axis;
  const auto key = key_of(weight, way);
  if (const auto known = placed_.find(key); known != placed_.end()) return known->second;
  const auto grid = this->grid(way.bits);
  const bool kept = kept_.contains(weight);
  const auto path = model_.graph().value(weight).name;
  const auto original = model_.weight(weight).detach();
  const auto channels = channels_first(original, axis).to(at::kFloat);
  auto scales = choose(channels, settings_, grid, way.per_tensor, path);
  if (way.smallest.defined() && scales.per_channel == 1) raise(scales, way.smallest, channels);
  if (settings_.exact_scales) scales.rows.scale = exact_scales(scales.rows.scale);
  const bool compensate =
      !kept && way.form && way.moments && !way.moments->empty() && settings_.rounding != Rounding::Nearest;
  const auto rounded =
      channels_back(compensate ? compensated(channels, scales, grid, *way.form, way.moments->second_moment(true))
                               : nearest(channels, scales, grid),
                    axis, original.sizes());
  auto& rewriter = context_.rewriter();
  if (!kept) rewriter.set_weight(path, rounded);

  const auto type = model_.graph().value(weight).type;
  const auto label = path + ".fake_quantize";
  Placed placed;
  if (kept) placed.rounded = rounded;
  placed.how =
      fmt::format("{} int{} per {}{}{}", grid.symmetric ? "symmetric" : "affine", way.bits.count,
                  scales.whole             ? "tensor"
                  : scales.per_channel > 1 ? "group"
                                           : "channel",
                  compensate ? ", error-compensated" : "", kept ? ", numbers kept for the weight's other readers" : "");
  if (scales.whole) {
    const auto node = rewriter.insert_front(
        kPerTensor,
        {weight, scales.rows.scale.item<double>(), scales.rows.zero_point.item<std::int64_t>(), grid.min, grid.max},
        {type}, label);
    placed.value = model_.graph().node(node).output();
    return placed_.emplace(key, placed).first->second;
  }
  auto suffix = std::string();
  for (int i = 1; model_.weights().contains(path + ".scale" + suffix); ++i) suffix = fmt::format("_{}", i);
  const auto scale = rewriter.add_weight(path + ".scale" + suffix, scales.rows.scale.to(original.device()));
  const auto zero_point =
      rewriter.add_weight(path + ".zero_point" + suffix, scales.rows.zero_point.to(original.device()));
  if (scales.per_channel == 1) {
    const auto node =
        rewriter.insert_front(kPerChannel, {weight, scale, zero_point, axis, grid.min, grid.max}, {type}, label);
    placed.value = model_.graph().node(node).output();
  } else {
    placed.value = place_groups(weight, way, scales.rows.scale.size(0), scale, zero_point, label);
  }
  return placed_.emplace(key, placed).first->second;
}

// Cuts the weight into rows of a group each: [out, in, ...] -> [out * groups, size] -> back.
ValueId WeightQuantizer::place_groups(ValueId weight, const Way& way, std::int64_t rows, ValueId scale,
                                      ValueId zero_point, const std::string& label) {
  const auto axis = way.axis;
  const auto grid = this->grid(way.bits);
  auto& rewriter = context_.rewriter();
  const auto type = model_.graph().value(weight).type;
  auto aligned = type;
  std::swap(aligned.sizes[0], aligned.sizes[static_cast<std::size_t>(axis)]);
  const auto elements = model_.weight(weight).numel();
  const TensorType cut{type.dtype, {rows, elements / rows}};
  NodeId last = kNoNode;
  ValueId value = weight;
  const auto append = [&](std::string_view op_name, std::vector<Operand> operands, const TensorType& result) {
    last = last == kNoNode ? rewriter.insert_front(op_name, std::move(operands), {result}, label)
                           : rewriter.insert_after(last, op_name, std::move(operands), {result}, label);
    value = model_.graph().node(last).output();
  };
  if (axis != 0) append("aten::transpose.int", {value, 0, axis}, aligned);
  append("aten::reshape", {value, Operand::Ints(cut.sizes)}, cut);
  append(kPerChannel, {value, scale, zero_point, 0, grid.min, grid.max}, cut);
  append("aten::reshape", {value, Operand::Ints(aligned.sizes)}, aligned);
  if (axis != 0) append("aten::transpose.int", {value, 0, axis}, type);
  return value;
}

void WeightQuantizer::correct_bias(const Layer& layer, const MatrixForm& form, const Gram& moments,
                                   const at::Tensor& before, const at::Tensor& after) {
  const auto bias = layer.region.bias;
  if (!model_.graph().is_own_weight(bias) || layer.region.batch_norm != kNoNode) return;
  const auto lost = to_rows(form, before).to(at::kDouble) - to_rows(form, after).to(at::kDouble);
  const auto mean = moments.mean().to(lost.device());  // that of windows is on the processor
  const auto shift = at::bmm(lost.reshape({form.groups, form.outputs, form.features}), mean.unsqueeze(2));
  const auto old = model_.weight(bias).detach();
  context_.rewriter().set_weight(model_.graph().value(bias).name, (old + shift.flatten()).to(old.scalar_type()));
}

std::string WeightQuantizer::recurrent(const Layer& layer, const Way& way) {
  const auto node = model_.graph().node(layer.region.anchor);
  std::size_t count = 0;
  for (std::size_t i = 0; i < node.operands.size(); ++i) {
    auto operand = node.operands[i];
    operand.each_value([&](ValueId& value) {
      if (!is_recurrent_matrix(value)) return;
      value = place(value, way).value;
      ++count;
    });
    context_.rewriter().set_operand(node.id, i, operand);
  }
  return fmt::format("{} weight matrices int{}, activations float", count, way.bits.count);
}

// Where a bias is far larger than the weights beside it, scales that let it fit into 32 bits, with a bit to spare.
at::Tensor WeightQuantizer::smallest_scale(const Layer& layer, double input_scale) const {
  // Exact scales want integers that float32 holds along with a scale's bits.
  const double largest = settings_.exact_scales ? std::exp2(24 - kExactScaleBits) : std::exp2(30);
  const auto bias = layer.region.bias;
  if (!model_.graph().is_own_weight(bias) || model_.graph().value(bias).type.rank() != 1) return {};
  return model_.weight(bias).detach().abs().to(at::kDouble) / (input_scale * largest);
}

std::string WeightQuantizer::quantize(const Layer& layer, const MatrixForm* form, const Gram* moments,
                                      std::optional<double> input_scale) {
  const auto& region = layer.region;
  auto way = way_of(layer);
  if (region.family == OpFamily::Recurrent) return recurrent(layer, way);
  way.form = form;
  way.moments = moments;
  if (input_scale) way.smallest = smallest_scale(layer, *input_scale);
  const auto read = readings(layer);
  if (read.empty()) return {};
  const auto [weight, reader] = read.front();
  const auto before = model_.weight(weight).detach();
  const auto& placed = place(weight, way);
  auto& rewriter = context_.rewriter();
  for (const auto& use : std::vector<Use>(model_.graph().uses(weight)))
    if (use.node == reader) rewriter.replace_use(use, weight, placed.value);
  if (settings_.correct_bias && form && moments && !moments->empty())
    correct_bias(layer, *form, *moments, before, placed.rounded.defined() ? placed.rounded : model_.weight(weight));
  return placed.how;
}

PARE_NAMESPACE_END
