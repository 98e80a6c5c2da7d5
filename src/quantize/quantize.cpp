#include <ATen/ATen.h>

#include <algorithm>
#include <bit>

#include "biases.hpp"
#include "calibration.hpp"
#include "learn_rounding.hpp"
#include "pare/core/error.hpp"
#include "pare/fuse/decompose_attention.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/quantize/quantization_settings.hpp"
#include "pare/quantize/smooth_quant.hpp"
#include "sites.hpp"
#include "weights.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::string_view kFakeQuantize = "aten::fake_quantize_per_tensor_affine";

void require_float(const Graph& graph) {
  for (const auto id : graph.nodes())
    if (family_of(graph.node(id).op) == OpFamily::FakeQuantize)
      fail("pare.quantize.104", graph.node(id).name, "the model is quantized already; start from the float model");
}

// The layer whose kernel writes the value as integers: then no other layer reads a float form of it.
const Layer* integer_source(const Sites& sites, ValueId value) {
  const auto found = std::ranges::find_if(sites.layers, [&](const Layer& layer) {
    return layer.region.output == value && layer.arithmetic == Arithmetic::Integer;
  });
  return found == sites.layers.end() ? nullptr : &*found;
}

void insert_fake_quantize(Model& model, Context& context, const Sites& sites, ValueId value, const QParams& qparams) {
  auto& rewriter = context.rewriter();
  const auto type = model.graph().value(value).type;
  const auto uses = std::vector<Use>(model.graph().uses(value));
  const auto* producer = model.graph().producer(value);
  const auto name = (producer ? producer->name : model.graph().value(value).name) + ".fake_quantize";
  std::vector<Operand> operands{value, qparams.scale, qparams.zero_point, qparams.quant_min, qparams.quant_max};
  const auto node = producer ? rewriter.insert_after(producer->id, kFakeQuantize, std::move(operands), {type}, name)
                             : rewriter.insert_front(kFakeQuantize, std::move(operands), {type}, name);
  const auto quantized = model.graph().node(node).output();
  const auto* source = integer_source(sites, value);
  for (const auto& use : uses) {
    const bool wants =
        std::ranges::find(sites.integer_uses, use) != sites.integer_uses.end() ||
        std::ranges::any_of(sites.integer_uses, [&](const Use& other) { return other.node == use.node; });
    const bool is_output = use.node == kNoNode;  // of the model: those stay float where a kernel can write both
    if (wants || (source && (!is_output || source->integers_only))) rewriter.replace_use(use, value, quantized);
  }
}

std::string activation_text(const Sites& sites, const Calibration& calibration, const FusedRegion& region) {
  const auto site = sites.site_of.find(index(region.output));
  if (site == sites.site_of.end()) return "output float";
  const auto& qparams = calibration.sites[site->second];
  return fmt::format("output {}{} in [{:.4g}, {:.4g}]", qparams.quant_min < 0 ? "s" : "u",
                     std::bit_width(static_cast<std::uint64_t>(qparams.quant_max - qparams.quant_min)), qparams.low(),
                     qparams.high());
}

// A row for each layer: what became of its weights, and of its output.
void report(Context& context, const Sites& sites, const Calibration& calibration,
            const std::vector<std::string>& texts) {
  for (std::size_t i = 0; i < sites.layers.size(); ++i) {
    const auto& layer = sites.layers[i];
    if (layer.arithmetic == Arithmetic::Float) {
      context.report().declined(layer.region.anchor, layer.reason);
      continue;
    }
    auto text = texts[i];
    if (layer.arithmetic == Arithmetic::Integer)
      text += (text.empty() ? "" : "; ") + activation_text(sites, calibration, layer.region);
    else
      text += "; " + layer.reason;
    context.report().done(layer.region.anchor, text);
  }
}

void report_others(const Graph& graph, Context& context, const Sites& sites) {
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (family_of(graph, id) != OpFamily::Other || node.condition == Condition::Training) continue;
    const bool fused = std::ranges::any_of(sites.layers, [&](const Layer& layer) {
      return std::ranges::find(layer.region.nodes, id) != layer.region.nodes.end();
    });
    const bool computes = std::ranges::any_of(
        node.outputs, [&](ValueId value) { return graph.value(value).type.dtype == c10::ScalarType::Float; });
    if (!fused && computes) context.report().declined(id, "no integer rule for this operator");
  }
}

}  // namespace

void validate_quantization(const QuantizationSettings& settings) {
  const auto check = [](Bits bits, std::string_view what) {
    if (bits.count < 2 || bits.count > 8)
      fail("pare.quantize.103", "", "{} of {} bits: between 2 and 8 are possible", what, bits.count);
  };
  check(settings.weights, "weights");
  for (const auto& [pattern, bits] : settings.layer_weights) check(bits, "weights");
  check(settings.activations, "activations");
  for (const auto& [pattern, bits] : settings.layer_activations) check(bits, "activations");
  if (const auto* group = std::get_if<PerGroup>(&settings.granularity); group && group->size < 1)
    fail("pare.quantize.103", "", "a group of {} weights", group->size);
  if (settings.max_features < 1) fail("pare.quantize.103", "", "max_features is {}", settings.max_features);
  if (settings.exact_scales && settings.rounding == Rounding::Learned)
    fail("pare.quantize.103", "", "exact scales with learned rounding, which moves scales; take compensated rounding");
  if (!(settings.float_first_share >= 0.0 && settings.float_first_share <= 1.0))
    fail("pare.quantize.103", "", "float_first_share is {}, not in [0, 1]", settings.float_first_share);
  const auto& solver = settings.learned.solver;
  if (settings.learned.samples < 1 || solver.candidates < 1 || solver.turns < 0 || solver.sweeps < 0 ||
      solver.block < 1 || !(solver.smallest > 0.0 && solver.smallest <= 1.0) || !(solver.damping >= 0.0))
    fail("pare.quantize.103", "",
         "learned rounding with {} samples, {} candidates down to {}, {} turns of {} sweeps, damping {}",
         settings.learned.samples, solver.candidates, solver.smallest, solver.turns, solver.sweeps, solver.damping);
}

Preserved quantize(Model& model, Context& context, const QuantizationSettings& settings) {
  validate_quantization(settings);
  require_float(model.graph());
  if (!settings.weight_only) (void)context.calibration();
  const at::NoGradGuard no_grad;
  const auto& target = settings.target ? *settings.target : onednn_target();
  model.eval();
  context.run(FoldBatchNorm{}, model);
  if (!settings.weight_only) context.run(DecomposeAttention{}, model);
  if (settings.smooth && !settings.weight_only) context.run(SmoothQuant{}, model);

  const auto sites = find_sites(
      model, {settings.keep_float, settings.layer_weights, target, settings.activations, settings.layer_activations,
              settings.weight_only, settings.exact_scales ? 0.0 : settings.float_first_share});
  const auto calibration = settings.weight_only ? Calibration{} : calibrate(model, context, sites, settings);
  const bool learn = learns_rounding(settings);
  const auto original = learn ? model : Model();
  WeightQuantizer weights(model, context, settings, sites.layers);
  std::vector<std::string> texts(sites.layers.size());
  auto task = context.progress().start("round weights", sites.layers.size());
  for (std::size_t i = 0; i < sites.layers.size(); ++i) {
    const auto& layer = sites.layers[i];
    task.advance();
    if (layer.arithmetic == Arithmetic::Float) continue;
    const bool measured = i < calibration.forms.size() && calibration.forms[i];
    const auto input_scale =
        layer.input_site ? std::optional(calibration.sites.at(*layer.input_site).scale) : std::nullopt;
    texts[i] = weights.quantize(layer, measured ? &*calibration.forms[i] : nullptr,
                                measured ? &calibration.moments[i] : nullptr, input_scale);
  }
  for (std::size_t i = 0; i < sites.sites.size(); ++i)
    for (const auto value : sites.sites[i].values)
      insert_fake_quantize(model, context, sites, value, calibration.sites[i]);
  if (learn)
    for (const auto& [layer, text] : learn_rounding(model, original, context, settings.learned, settings.max_features))
      for (std::size_t i = 0; i < sites.layers.size(); ++i)
        if (index(sites.layers[i].region.anchor) == layer) texts[i] = text;
  // Beside numbers a bias is a number; where results are integers, it is one of them.
  const bool integers_only =
      std::ranges::any_of(target.families, [](const auto& family) { return !family.float_output; });
  if ((settings.round_biases && integers_only) || settings.exact_scales) round_biases(model, context.rewriter());
  report(context, sites, calibration, texts);
  report_others(model.graph(), context, sites);
  context.rewriter().eliminate_dead();
  return Preserved::none();
}

PARE_NAMESPACE_END
