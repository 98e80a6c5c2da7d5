#include "batch_norm_fold.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "pare/graph/fusion.hpp"
#include "pare/graph/rewriter.hpp"
#include "pare/graph/weight_axis.hpp"

PARE_NAMESPACE_BEGIN

namespace {

std::string weight_name(const Graph& graph, const Operand& operand) {
  return operand.value() == kNoValue ? std::string() : graph.value(operand.value()).name;
}

}  // namespace

ChannelAffine BatchNormFold::affine(const Model& model) const {
  const auto read = [&](const std::string& path) { return path.empty() ? at::Tensor() : model.weight(path); };
  return batch_norm_affine(read(gamma), read(beta), read(mean), read(variance), eps);
}

ChannelAffine BatchNormFold::rounding_affine(const Model& model) const {
  const at::NoGradGuard no_grad;
  auto result = affine(model);
  constexpr double kVanishing = 1e-20;
  result.scale = result.scale.masked_fill(result.scale.abs().lt(kVanishing), 1.0);
  return result;
}

at::Tensor BatchNormFold::unfold_weight(const at::Tensor& folded, const ChannelAffine& by,
                                        const at::Tensor& weight) const {
  const auto inverse = by.scale.reciprocal();
  if (folded.sizes() == weight.sizes())
    return scale_output_channels(folded, inverse, axis, groups).to(folded.scalar_type());
  const auto rows = inverse.repeat_interleave(folded.size(0) / inverse.size(0));
  return scale_output_channels(folded, rows, 0, 1).to(folded.scalar_type());
}

std::vector<BatchNormFold> find_folds(const Model& model, const Model& folded) {
  std::vector<BatchNormFold> folds;
  const auto& graph = model.graph();
  const auto regions = match_regions(folded.graph());
  for (const auto& region : match_regions(graph)) {
    if (region.batch_norm == kNoNode || folded.graph().contains(region.batch_norm)) continue;
    const auto twin = std::ranges::find(regions, region.anchor, &FusedRegion::anchor);
    if (twin == regions.end()) continue;
    const auto& norm = graph.node(region.batch_norm);
    BatchNormFold fold;
    fold.norm = region.batch_norm;
    fold.normed = norm.input(0);
    fold.weight = graph.value(region.weight).name;
    if (region.bias != kNoValue) fold.bias = graph.value(region.bias).name;
    fold.folded_bias = folded.graph().value(twin->bias).name;
    fold.bias_is_added = twin->bias_add != kNoNode && region.bias_add == kNoNode;
    fold.gamma = weight_name(graph, norm.operand("weight"));
    fold.beta = weight_name(graph, norm.operand("bias"));
    fold.mean = weight_name(graph, norm.operand("running_mean"));
    fold.variance = weight_name(graph, norm.operand("running_var"));
    fold.eps = norm.operand("eps").number().value_or(1e-5);
    fold.axis = *output_axis(graph, region);
    fold.groups = groups_of(graph, region);
    folds.push_back(std::move(fold));
  }
  return folds;
}

void unfold(Model& edited, const Model& model, const std::vector<BatchNormFold>& folds) {
  Rewriter rewriter(edited);
  for (const auto& fold : folds) {
    const auto& norm = model.graph().node(fold.norm);
    auto operands = norm.operands;
    for (auto& operand : operands)
      operand.each_value([&](ValueId& value) {
        if (value == fold.normed) return;
        const auto path = model.graph().value(value).name;
        value = edited.weights().contains(path) ? edited.graph().weight(path)
                                                : rewriter.add_weight(path, model.weight(path));
      });
    const auto layer = edited.graph().producer(fold.normed)->id;
    const auto node = rewriter.insert_after(layer, norm.op.name(), std::move(operands),
                                            {edited.graph().value(fold.normed).type}, norm.name);
    rewriter.replace_uses(fold.normed, edited.graph().node(node).output(), {node});
  }
}

PARE_NAMESPACE_END
