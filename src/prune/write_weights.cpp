#include <ATen/ATen.h>

#include "graph/frontier.hpp"
#include "prune/solve_layer.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// Moments of a layer's inputs as they will be (`x'`) and as they were (`x`), over the same samples.
struct PairedMoments {
  at::Tensor hessian, cross;      ///< `E[x' x'^T]`, `E[x' x^T]`, `[groups, features, features]` double
  at::Tensor mean_now, mean_was;  ///< `[groups, features]` double
};

PairedMoments observe(const SparseLayer& layer, const CalibrationBatches& calibration, const Frontier& dense,
                      const Frontier& pruned) {
  PairedMoments moments;
  double samples = 0;
  const auto add = [](at::Tensor& sum, const at::Tensor& part) {
    sum = sum.defined() ? sum.add_(part.to(at::kDouble)) : part.to(at::kDouble);
  };
  const auto input = layer.region.inputs[0];
  for (std::size_t b = 0; b < dense.size(); ++b) {
    const auto limit = calibration.sample_limit(layer.form);
    const auto was = layer.features_of(dense.value(b, input), limit).to(at::kFloat);
    const auto now = layer.features_of(pruned.value(b, input), limit).to(at::kFloat);
    const auto transposed = now.transpose(1, 2);
    add(moments.hessian, at::bmm(transposed, now));
    add(moments.cross, at::bmm(transposed, was));
    add(moments.mean_now, now.sum(1));
    add(moments.mean_was, was.sum(1));
    samples += static_cast<double>(now.size(1));
  }
  for (auto* sum : {&moments.hessian, &moments.cross, &moments.mean_now, &moments.mean_was}) sum->div_(samples);
  return moments;
}

// Where the mean of a layer's outputs can be put right: its own bias, or its batch norm's running mean.
struct Offset {
  std::string path;
  double sign = 1;  ///< of a shift of the outputs
};

Offset offset_of(const Graph& graph, const FusedRegion& region) {
  if (graph.is_own_weight(region.bias)) return {graph.value(region.bias).name, 1};
  if (region.batch_norm == kNoNode) return {};
  const auto& norm = graph.node(region.batch_norm);
  if (norm.op.argument("running_mean") < 0) return {};
  const auto mean = norm.operand("running_mean").value();
  if (!graph.is_own_weight(mean)) return {};
  return {graph.value(mean).name, -1};
}

// `[groups, features]` means of the inputs to the means of the outputs.
at::Tensor mean_outputs(const MatrixForm& form, const at::Tensor& rows, const at::Tensor& means) {
  const auto weight = rows.to(at::kDouble).view({form.groups, form.outputs, form.features});
  return at::bmm(weight, means.unsqueeze(2)).flatten();
}

void solve(Model& model, SparseLayer& layer, const PairedMoments& moments, const at::Tensor& mask) {
  const auto original = model.weight(layer.path).detach();
  const auto rows = layer.to_rows(original);
  const auto offset = offset_of(model.graph(), layer.region);
  auto hessian = moments.hessian, cross = moments.cross;
  if (!offset.path.empty()) {  // the means are put right apart: only what varies is left to the weights
    hessian = hessian - at::bmm(moments.mean_now.unsqueeze(2), moments.mean_now.unsqueeze(1));
    cross = cross - at::bmm(moments.mean_now.unsqueeze(2), moments.mean_was.unsqueeze(1));
  }
  const auto solved = solve_layer(layer.form, rows, mask, hessian, cross);
  layer.exact = solved.exact;
  if (!offset.path.empty()) {
    const auto shift =
        mean_outputs(layer.form, rows, moments.mean_was) - mean_outputs(layer.form, solved.weight, moments.mean_now);
    const auto& before = model.weight(offset.path).detach();
    if (before.numel() == shift.numel())
      model.set_weight(offset.path, (before.to(at::kDouble) + offset.sign * shift.view_as(before)).to(at::kFloat));
  }
  model.set_weight(layer.path, layer.from_rows(solved.weight, original.sizes()));
}

}  // namespace

void write_weights(Model& model, Context& context, const SparsitySettings& settings,
                   const CalibrationBatches& calibration, std::vector<SparseLayer>& layers) {
  const Model original = model;
  const auto batches = settings.update_weights ? calibration.batches : std::vector<Batch>{};
  Frontier dense(original, batches), pruned(original, batches);
  auto task = context.progress().start("solve weights", layers.size());
  for (auto& layer : layers) {
    const auto& mask = layer.steps[layer.chosen].mask;
    dense.advance(original, layer.region.anchor);
    pruned.advance(model, layer.region.anchor);
    if (settings.update_weights && layer.solved) {
      solve(model, layer, observe(layer, calibration, dense, pruned), mask);
    } else {
      const auto weight = model.weight(layer.path).detach();
      model.set_weight(layer.path, layer.from_rows(layer.to_rows(weight) * mask, weight.sizes()));
    }
    pruned.repeat(model, layer.region.weight_nodes);
    task.advance();
  }
}

PARE_NAMESPACE_END
