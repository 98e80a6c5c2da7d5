#include "pare/quantize/smooth_quant.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <vector>

#include "pare/core/error.hpp"
#include "pare/graph/weight_axis.hpp"
#include "pare/numerics/fake_quantize.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// A layer norm and the linear layers that read it.
struct Site {
  NodeId norm;
  std::vector<const FusedRegion*> readers;
  at::Tensor peak;  // max |y_j| over calibration
};

bool own_weight(const Graph& graph, ValueId value) {
  return value != kNoValue && graph.value(value).kind == ValueKind::Weight && graph.uses(value).size() == 1;
}

// Fills `site.readers`, or says why there is nothing to smooth.
const char* collect(const Graph& graph, const std::vector<FusedRegion>& regions, Site& site) {
  const auto& norm = graph.node(site.norm);
  if (!own_weight(graph, norm.operand("weight").value()) ||
      (norm.operand("bias").value() != kNoValue && !own_weight(graph, norm.operand("bias").value())))
    return "its scale is not a weight of its own";
  if (norm.operand("normalized_shape").integers().value_or(std::vector<std::int64_t>{}).size() != 1)
    return "it normalises several axes";
  std::vector<ValueId> pending{norm.output()};
  while (!pending.empty()) {
    const auto value = pending.back();
    pending.pop_back();
    for (const auto& use : graph.uses(value)) {
      if (use.node == kNoNode) return "its output leaves the model";
      const auto& user = graph.node(use.node);
      if (user.is("aten::dropout") || user.is("aten::contiguous")) {
        pending.push_back(user.output());
        continue;
      }
      const auto region = std::ranges::find(regions, use.node, &FusedRegion::anchor);
      if (region == regions.end() || region->family != OpFamily::Linear || region->inputs[0] != value)
        return "something other than linear layers reads it";
      if (!output_axis(graph, *region) || graph.uses(region->weight).size() != 1)
        return "a linear layer that reads it shares its weight";
      site.readers.push_back(&*region);
    }
  }
  return site.readers.empty() ? "nothing reads it" : nullptr;
}

// A weight's largest magnitude for each input feature.
at::Tensor feature_peak(const Model& model, const FusedRegion& region) {
  const auto axis = *output_axis(model.graph(), region);
  return model.weight(region.weight).detach().to(at::kDouble).abs().amax(axis);
}

void smooth(Model& model, Rewriter& rewriter, const Site& site, double strength) {
  auto peak = feature_peak(model, *site.readers.front());
  for (const auto* reader : site.readers) peak = at::maximum(peak, feature_peak(model, *reader));
  const auto live = (site.peak > 0).logical_and(peak > 0);
  const auto logs = at::where(live, strength * site.peak.log() - (1.0 - strength) * peak.log(), at::zeros_like(peak));
  const auto centred = at::where(live, logs - logs.sum() / live.sum().clamp_min(1), at::zeros_like(logs));
  const auto scale = centred.exp();

  const auto& graph = model.graph();
  const auto write = [&](ValueId value, const at::Tensor& tensor) {
    rewriter.set_weight(graph.value(value).name, tensor.to(model.weight(value).scalar_type()));
  };
  const auto norm = graph.node(site.norm);
  for (const auto* argument : {"weight", "bias"})
    if (const auto value = norm.operand(argument).value(); value != kNoValue)
      write(value, model.weight(value).detach().to(at::kDouble) / scale);
  for (const auto* reader : site.readers) {
    const auto axis = *output_axis(graph, *reader);
    write(reader->weight, model.weight(reader->weight).detach().to(at::kDouble) * scale.unsqueeze(axis));
  }
}

}  // namespace

void SmoothQuant::validate() const {
  if (!(strength >= 0.0 && strength <= 1.0))
    fail("pare.quantize.103", "", "a strength of {} is not in [0, 1]", strength);
}

Preserved SmoothQuant::run(Model& model, Context& context) {
  validate();
  const at::NoGradGuard no_grad;
  const auto regions = match_regions(model.graph());
  std::unordered_map<std::size_t, Site> sites;
  for (const auto id : model.graph().nodes(op("aten::layer_norm"))) {
    Site site{id, {}, {}};
    if (const auto* reason = collect(model.graph(), regions, site))
      context.report().declined(id, reason);
    else
      sites.emplace(index(model.graph().node(id).output()), std::move(site));
  }
  if (sites.empty()) return Preserved::all();
  auto task = context.progress().start("measure channels", context.calibration().size());
  for (const auto& batch : context.calibration()) {
    (void)model.run(batch, [&](ValueId value, const at::Tensor& tensor) {
      const auto site = sites.find(index(value));
      if (site == sites.end() || tensor.numel() == 0) return;
      const auto peak = tensor.detach().abs().flatten(0, -2).amax(0).to(at::kDouble);
      if (!at::isfinite(peak).all().item<bool>())
        fail("pare.quantize.101", model.graph().node(site->second.norm).name,
             "calibration meets a value that is NaN or infinite here; check the calibration batches and the weights");
      site->second.peak = site->second.peak.defined() ? at::maximum(site->second.peak, peak) : peak;
    });
    task.advance();
  }
  for (const auto id : model.graph().nodes(op("aten::layer_norm"))) {
    const auto site = sites.find(index(model.graph().node(id).output()));
    if (site == sites.end()) continue;
    if (!site->second.peak.defined()) {
      context.report().declined(id, "calibration never reached it");
      continue;
    }
    smooth(model, context.rewriter(), site->second, strength);
    context.report().done(id, fmt::format("spread moved into {} linear layers", site->second.readers.size()));
  }
  return Preserved::graph();
}

PARE_NAMESPACE_END
