#include "pare/fuse/fold_batch_norm.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <string>

#include "pare/graph/weight_axis.hpp"
#include "pare/numerics/batch_norm_folding.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// The tensor of an optional weight operand.
at::Tensor read(const Model& model, const Operand& operand) {
  const auto value = operand.value();
  return value == kNoValue ? at::Tensor() : model.weight(value).detach();
}

bool is_table(const Graph& graph, const Operand& operand) {
  return operand.value() == kNoValue || graph.value(operand.value()).kind == ValueKind::Weight;
}

// Why this region cannot be folded, or null.
const char* obstacle(const Graph& graph, const FusedRegion& region) {
  const auto& norm = graph.node(region.batch_norm);
  if (region.weight == kNoValue || !output_axis(graph, region)) return "the weight is not read straight from the table";
  for (const auto* argument : {"weight", "bias", "running_mean", "running_var"})
    if (!is_table(graph, norm.operand(argument))) return "the batch norm's parameters are computed";
  if (region.bias != kNoValue && graph.value(region.bias).kind != ValueKind::Weight) return "the bias is computed";
  if (!owns_weight(graph, region)) return "the weight is shared with another layer";
  for (const auto id : region.weight_nodes)
    if (family_of(graph.node(id).op) == OpFamily::FakeQuantize) return "the weight is quantized already";
  return nullptr;
}

void fold(Model& model, Rewriter& rewriter, const FusedRegion& region) {
  const auto& graph = model.graph();
  const auto norm = graph.node(region.batch_norm);
  const auto mean = read(model, norm.operand("running_mean"));
  const auto variance = read(model, norm.operand("running_var"));
  const auto gamma = read(model, norm.operand("weight"));
  const auto beta = read(model, norm.operand("bias"));
  const auto weight = model.weight(region.weight).detach();
  const auto path = graph.value(region.weight).name;

  const auto affine = batch_norm_affine(gamma, beta, mean, variance, norm.operand("eps").number().value_or(1e-5));
  const auto old_bias = region.bias == kNoValue ? at::Tensor() : model.weight(region.bias).detach();
  const auto folded = fold_weight(weight, affine, *output_axis(graph, region), groups_of(graph, region));
  const auto bias = fold_bias(old_bias, affine, weight.scalar_type());

  const auto anchor = graph.node(region.anchor);
  rewriter.set_weight(path, folded);
  auto name = (region.bias == kNoValue || region.bias_add != kNoNode ? norm.name : anchor.name) + ".folded_bias";
  while (model.weights().contains(name)) name += "_";  // of a batch norm that was folded before
  const auto value = rewriter.add_weight(name, bias, true);
  rewriter.replace_uses(norm.output(), norm.input(0));
  if (region.bias_add != kNoNode) {
    const auto add = graph.node(region.bias_add);
    rewriter.set_operand(add.id, add.input(0) == region.bias ? 0 : 1, value);
  } else if (anchor.is("aten::addmm")) {
    rewriter.set_operand(anchor.id, std::size_t{0}, value);
  } else if (anchor.op.argument("bias") >= 0) {
    rewriter.set_operand(anchor.id, "bias", value);
  } else {
    const auto add = rewriter.insert_after(anchor.id, "aten::add.Tensor", {anchor.output(), value},
                                           {graph.value(anchor.output()).type});
    rewriter.replace_uses(anchor.output(), rewriter.graph().node(add).output(), {add});
  }
}

// Folds what can be, again while the next batch norm has come to stand behind a layer. @return whether any was
bool fold_all(Model& model, Context& context) {
  for (bool changed = false;; changed = true) {
    const auto regions = match_regions(model.graph());
    const auto foldable = [&](const FusedRegion& region) {
      return region.batch_norm != kNoNode && obstacle(model.graph(), region) == nullptr;
    };
    if (std::ranges::none_of(regions, foldable)) {
      for (const auto& region : regions)
        if (region.batch_norm != kNoNode) context.report().declined(region.batch_norm, obstacle(model.graph(), region));
      return changed;
    }
    for (const auto& region : regions) {
      if (!foldable(region)) continue;
      fold(model, context.rewriter(), region);
      context.report().done(region.batch_norm, "folded into " + model.graph().node(region.anchor).name);
    }
    context.rewriter().eliminate_dead();
  }
}

}  // namespace

Preserved FoldBatchNorm::run(Model& model, Context& context) {
  const at::NoGradGuard no_grad;
  const bool changed = fold_all(model, context);
  for (const auto id : model.graph().nodes(op("aten::batch_norm"))) {
    if (model.graph().uses(model.graph().node(id).output()).empty()) continue;
    bool reported = false;
    for (const auto& row : context.report().report().rows(model.graph().node(id).name))
      reported = reported || row.pass == context.pass();
    if (!reported) context.report().declined(id, "no layer in front of it that it could be folded into");
  }
  return changed ? Preserved::none() : Preserved::all();
}

PARE_NAMESPACE_END
