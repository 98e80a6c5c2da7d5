#include "pare/quantize/smooth_quant.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "pare/core/error.hpp"
#include "pare/graph/weight_axis.hpp"
#include "smoothing_sites.hpp"

PARE_NAMESPACE_BEGIN

namespace {

void see(SmoothingSite& site, const Graph& graph, const at::Tensor& tensor) {
  const auto peak = tensor.detach().flatten(0, -2).abs().amax(0).to(at::kDouble);
  if (!at::isfinite(peak).all().item<bool>())
    fail("pare.quantize.101", graph.producer(site.value)->name,
         "calibration meets a value that is NaN or infinite here; check the calibration batches and the weights");
  site.peak = site.peak.defined() ? at::maximum(site.peak, peak) : peak;
  site.samples.add(tensor);
}

void measure(const Model& model, Context& context, std::vector<SmoothingSite>& sites) {
  std::unordered_map<std::size_t, SmoothingSite*> by_value;
  for (auto& site : sites) by_value.emplace(index(site.value), &site);
  auto task = context.progress().start("measure channels", context.calibration().size());
  for (const auto& batch : context.calibration()) {
    (void)model.run(batch, [&](ValueId value, const at::Tensor& tensor) {
      const auto site = by_value.find(index(value));
      if (site != by_value.end() && tensor.numel() > 0) see(*site->second, model.graph(), tensor);
    });
    task.advance();
  }
}

void write(Context& context, ValueId weight, const at::Tensor& tensor) {
  const auto& model = context.model();
  const auto path = model.graph().value(weight).name;
  context.rewriter().set_weight(path, tensor.to(model.weight(weight).scalar_type()));
}

void divide_norm(Context& context, NodeId norm, const at::Tensor& scale) {
  const auto node = context.model().graph().node(norm);
  for (const auto* argument : {"weight", "bias"})
    if (const auto value = node.operand(argument).value(); value != kNoValue)
      write(context, value, context.model().weight(value).detach().to(at::kDouble) / scale);
}

// What a layer reads, before it is laid out anew: there a product is part of the kernel that writes it.
ValueId written(const Graph& graph, ValueId value) {
  while (graph.producer(value)->is("aten::contiguous")) value = graph.producer(value)->input(0);
  return value;
}

// Puts `y * (1 / s)` before the layers: behind the dropout between y and them, and once for those that read one value.
void insert_product(Context& context, const SmoothingSite& site, const at::Tensor& scale) {
  auto& rewriter = context.rewriter();
  const auto& graph = [&]() -> const Graph& { return context.model().graph(); };
  const auto name = graph().producer(site.value)->name + ".smooth";
  const auto factor = rewriter.add_weight(name, scale.reciprocal().to(at::kFloat));
  std::map<ValueId, ValueId> products;
  for (const auto& reader : site.readers) {
    const auto source = written(graph(), reader.inputs[0]);
    auto& product = products.try_emplace(source, kNoValue).first->second;
    if (product == kNoValue) {
      const auto type = graph().value(source).type;
      const auto node = rewriter.insert_after(graph().producer(source)->id, "aten::mul.Tensor",
                                              {Operand(source), Operand(factor)}, {type}, name);
      product = graph().node(node).output();
    }
    for (const auto& use : std::vector<Use>(graph().uses(reader.inputs[0])))
      if (use.node == reader.anchor) rewriter.replace_use(use, reader.inputs[0], product);
  }
}

void scale_weights(Context& context, const SmoothingSite& site, const at::Tensor& scale) {
  for (const auto& reader : site.readers) {
    const auto axis = *output_axis(context.model().graph(), reader);
    write(context, reader.weight,
          context.model().weight(reader.weight).detach().to(at::kDouble) * scale.unsqueeze(axis));
  }
}

}  // namespace

void SmoothQuant::validate() const {
  if (strength && !(*strength >= 0.0 && *strength <= 1.0))
    fail("pare.quantize.103", "", "a strength of {} is not in [0, 1]", *strength);
  if (!(least_gain >= 0.0 && least_gain < 1.0))
    fail("pare.quantize.103", "", "a least_gain of {} is not in [0, 1)", least_gain);
}

Preserved SmoothQuant::run(Model& model, Context& context) {
  validate();
  const at::NoGradGuard no_grad;
  auto sites = find_smoothing_sites(model.graph());
  if (sites.empty()) return Preserved::all();
  measure(model, context, sites);
  const auto strengths = strength ? std::vector<double>{*strength} : std::vector<double>{0.4, 0.5, 0.6, 0.7, 0.8, 0.9};
  for (const auto& site : sites) {
    const auto id = model.graph().producer(site.value)->id;
    if (!site.peak.defined()) {
      context.report().declined(id, "calibration never reached it");
      continue;
    }
    const auto smoothing = choose_smoothing(model, site, strengths);
    if (site.norm == kNoNode && smoothing.error > 1.0 - least_gain) {
      context.report().declined(
          id, fmt::format("its channels are even: a product would leave {:.0f} % of the error", smoothing.error * 100));
      continue;
    }
    if (!strength && smoothing.error >= 1.0) {
      context.report().declined(id, "its channels are even");
      continue;
    }
    scale_weights(context, site, smoothing.scale);
    if (site.norm != kNoNode)
      divide_norm(context, site.norm, smoothing.scale);
    else
      insert_product(context, site, smoothing.scale);
    context.report().done(
        id, fmt::format("spread moved into {} linear layer{} at strength {:.1f}{}: {:.0f} % of the error left",
                        site.readers.size(), site.readers.size() == 1 ? "" : "s", smoothing.strength,
                        site.norm == kNoNode ? ", by a product" : "", smoothing.error * 100));
  }
  return Preserved::none();
}

PARE_NAMESPACE_END
