#include "pare/quantize/cross_layer_equalization.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "pare/graph/weight_axis.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// Two neighbours with the channels between them.
struct Pair {
  const FusedRegion* first;
  const FusedRegion* second;
};

bool is_weighted(const FusedRegion& region) {
  return region.family == OpFamily::Convolution || region.family == OpFamily::Linear;
}

bool is_homogeneous(const Graph& graph, const FusedRegion& region) {
  if (region.activation == kNoNode) return true;
  const auto& node = graph.node(region.activation);
  return node.is("aten::relu") || node.is("aten::leaky_relu");
}

// A weight as [groups, outputs, inputs, taps].
at::Tensor blocks(const Model& model, const FusedRegion& region) {
  const auto groups = groups_of(model.graph(), region);
  const auto axis = *output_axis(model.graph(), region);
  const auto weight = model.weight(region.weight).detach().to(at::kDouble).transpose(0, axis);
  return weight.reshape({groups, weight.size(0) / groups, weight.size(1), -1});
}

at::Tensor output_ranges(const at::Tensor& blocks) { return blocks.abs().amax({2, 3}).flatten(); }
at::Tensor input_ranges(const at::Tensor& blocks) { return blocks.abs().amax({1, 3}).flatten(); }

void write_back(Model& model, Rewriter& rewriter, const FusedRegion& region, const at::Tensor& blocks) {
  const auto old = model.weight(region.weight);
  const auto axis = *output_axis(model.graph(), region);
  auto sizes = old.sizes().vec();
  std::swap(sizes[0], sizes[static_cast<std::size_t>(axis)]);
  rewriter.set_weight(model.graph().value(region.weight).name,
                      blocks.reshape(sizes).transpose(0, axis).contiguous().to(old.scalar_type()));
}

// Whether a padding leaves the channels where they are: in front of so many dimensions, which it lists last first.
bool keeps_channels(const Node& node, std::size_t spatial) {
  const auto pads = node.operand("pad").integers();
  return pads && std::all_of(pads->begin() + static_cast<std::ptrdiff_t>(std::min(2 * spatial, pads->size())),
                             pads->end(), [](std::int64_t pad) { return pad == 0; });
}

// The only region that reads a region's output, through nothing but zero padding and dropout.
const FusedRegion* sole_reader(const Graph& graph, const std::vector<FusedRegion>& regions, const FusedRegion& first) {
  const auto spatial = graph.value(first.weight).type.rank() - 2;
  auto value = first.output;
  for (;;) {
    const auto& uses = graph.uses(value);
    if (uses.size() != 1 || uses[0].node == kNoNode) return nullptr;
    const auto& user = graph.node(uses[0].node);
    const bool transparent = user.is("aten::dropout") || user.is("aten::contiguous") ||
                             ((user.is("aten::constant_pad_nd") || user.is("aten::pad")) &&
                              passes_integers(graph, user.id) && keeps_channels(user, spatial));
    if (!transparent) {
      const auto found = std::ranges::find(regions, user.id, &FusedRegion::anchor);
      return found != regions.end() && found->inputs.size() == 1 && found->inputs[0] == value ? &*found : nullptr;
    }
    value = user.output();
  }
}

// Whether the channels that a layer writes lie along the axis that the other one reads: a linear layer behind a
// convolution mixes positions, and a convolution of other dimensions takes the batch for channels.
bool share_axis(const Graph& graph, const FusedRegion& first, const FusedRegion& second) {
  return first.family == second.family &&
         graph.value(first.weight).type.rank() == graph.value(second.weight).type.rank();
}

const char* obstacle(const Graph& graph, const FusedRegion& first, const FusedRegion* second) {
  if (first.batch_norm != kNoNode) return "its batch norm is not folded";
  if (first.residual != kNoValue) return "a residual is added to its output";
  if (!second) return "no single layer reads its output";
  if (!is_weighted(*second)) return "its reader has no weights to equalize with";
  if (!is_homogeneous(graph, first)) return "its activation is not homogeneous";
  for (const auto* region : {&first, second})
    if (!output_axis(graph, *region) || !owns_weight(graph, *region)) return "a weight is shared or computed";
  if (!share_axis(graph, first, *second)) return "its reader sees other channels";
  if (first.bias != kNoValue && !graph.is_own_weight(first.bias)) return "its bias is shared or computed";
  return nullptr;
}

// Scales that leave every bias within the largest there is, at the scale that most channels have: a channel whose
// weights are next to nothing (a batch norm without gain, folded) would otherwise stretch the range of them all.
at::Tensor bounded(const at::Tensor& scale, const at::Tensor& bias) {
  const auto size = bias.abs();
  const auto largest = size.max().item<double>();
  return largest > 0 ? at::maximum(scale, scale.median() * size / largest) : scale;
}

// One step for one pair. @return the largest |log s|
double equalize(Model& model, Rewriter& rewriter, const Pair& pair) {
  const auto first = blocks(model, *pair.first), second = blocks(model, *pair.second);
  const auto r1 = output_ranges(first), r2 = input_ranges(second);
  const auto live = (r1 > 0).logical_and(r2 > 0);
  auto scale = at::where(live, (r1 / r2.clamp_min(1e-300)).sqrt(), at::ones_like(r1));
  if (pair.first->bias != kNoValue) scale = bounded(scale, model.weight(pair.first->bias).detach().to(at::kDouble));
  const auto settled = scale.log().abs().max().item<double>();
  const auto shape_first = std::vector<std::int64_t>{first.size(0), first.size(1), 1, 1};
  const auto shape_second = std::vector<std::int64_t>{second.size(0), 1, second.size(2), 1};
  write_back(model, rewriter, *pair.first, first / scale.reshape(shape_first));
  write_back(model, rewriter, *pair.second, second * scale.reshape(shape_second));
  if (pair.first->bias != kNoValue) {
    const auto bias = model.weight(pair.first->bias).detach();
    rewriter.set_weight(model.graph().value(pair.first->bias).name,
                        (bias.to(at::kDouble) / scale).to(bias.scalar_type()));
  }
  return settled;
}

}  // namespace

Preserved CrossLayerEqualization::run(Model& model, Context& context) {
  const at::NoGradGuard no_grad;
  const auto regions = match_regions(model.graph());
  std::vector<Pair> pairs;
  for (const auto& region : regions) {
    if (!is_weighted(region)) continue;
    const auto* second = region.weight == kNoValue ? nullptr : sole_reader(model.graph(), regions, region);
    if (const auto* reason = obstacle(model.graph(), region, second)) {
      context.report().declined(region.anchor, reason);
      continue;
    }
    const auto outputs = output_ranges(blocks(model, region)).numel();
    if (input_ranges(blocks(model, *second)).numel() != outputs) {
      context.report().declined(region.anchor, "its reader sees other channels");
      continue;
    }
    pairs.push_back({&region, second});
  }
  if (pairs.empty()) return Preserved::all();
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    double moved = 0.0;
    for (const auto& pair : pairs) moved = std::max(moved, equalize(model, context.rewriter(), pair));
    if (moved < tolerance) break;
  }
  for (const auto& pair : pairs)
    context.report().done(pair.first->anchor, "equalized with " + model.graph().node(pair.second->anchor).name);
  return Preserved::graph();
}

PARE_NAMESPACE_END
