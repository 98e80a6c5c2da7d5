#include "pipeline/recipes.hpp"

#include <algorithm>
#include <bit>
#include <map>

#include "pare/analysis/layer_exchange.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/quantize/quantizer.hpp"

PARE_NAMESPACE_BEGIN

LadderRecipe Ladder::float32() const {
  return {"float32", [model = model_](const ContextOptions& context) { return apply(FoldBatchNorm{}, model, context); },
          compile_};
}

LadderRecipe Ladder::bf16() const {
  auto recipe = float32();
  recipe.name = "bf16";
  recipe.compile.dtype = c10::ScalarType::BFloat16;
  return recipe;
}

LadderRecipe Ladder::int8() const { return int8_but("int8", {}); }

LadderRecipe Ladder::int8_but(std::string name, std::vector<std::string> layers) const {
  return {std::move(name),
          [model = model_, layers = std::move(layers)](const ContextOptions& context) {
            return apply(Quantizer{.keep_float = layers}, model, context);
          },
          compile_};
}

LadderRecipe Ladder::planned(const Plan& plan, Rounding rounding) const {
  const auto halves = plan.bf16_layers(), unrounded = plan.float_layers();
  LadderRecipe recipe{
      unrounded.empty() ? fmt::format("int4/int8 at {:.2f} bits", plan.average_bits())
                        : fmt::format("int8, {} of {} layers {}", unrounded.size(), plan.layers.size(),
                                      halves.empty() ? "float32" : "bf16"),
      [model = model_, plan, rounding](const ContextOptions& context) {
        return apply(
            Quantizer{.keep_float = plan.float_layers(), .layer_weights = plan.layer_weights(), .rounding = rounding},
            model, context);
      },
      compile_};
  if (rounding == Rounding::Learned) recipe.name += ", learned rounding";
  for (const auto& name : halves) recipe.compile.node_precision[name] = c10::ScalarType::BFloat16;
  return recipe;
}

LadderRecipe Ladder::pruned(double macs) const {
  return {fmt::format("pruned by {:.0f} %, int8", 100 * macs),
          [*this, macs](const ContextOptions& context) {
            auto pruned = thin(macs, context);
            auto quantized = apply(Quantizer{}, std::move(pruned.model), context);
            pruned.report.append(quantized.report);
            return Applied{std::move(quantized.model), std::move(pruned.report)};
          },
          compile_};
}

Applied Ladder::thin(double macs, const ContextOptions& context) const {
  return apply(Pruner<>{.macs = Ratio{macs}}, model_, context);
}

LadderRecipe Ladder::int8_of(std::string name, Applied trained) const {
  return {std::move(name),
          [trained = std::move(trained)](const ContextOptions& context) {
            auto report = trained.report;
            auto quantized = apply(Quantizer{}, trained.model, context);
            report.append(quantized.report);
            return Applied{std::move(quantized.model), std::move(report)};
          },
          compile_};
}

LadderRecipe Ladder::finished(std::string name, std::function<Applied(const ContextOptions& context)> build) const {
  return {std::move(name), std::move(build), compile_, false};
}

namespace {

// Bits that weights are computed at. One whose readers each have a grid of their own is stored as it is, and still
// computed in integers.
std::map<std::string, int> integer_bits(const Graph& graph) {
  std::map<std::string, int> bits;
  for (const auto& region : match_regions(graph))
    for (const auto id : region.weight_nodes) {
      const auto& node = graph.node(id);
      if (family_of(graph, id) != OpFamily::FakeQuantize) continue;
      const auto low = node.operand("quant_min").integer().value_or(-128);
      const auto high = node.operand("quant_max").integer().value_or(127);
      bits[graph.value(region.weight).name] = std::bit_width(static_cast<std::uint64_t>(high - low));
    }
  return bits;
}

}  // namespace

Plan plan_of(const Model& model, const CompileOptions& compile) {
  const WeightStorage stored(model);
  Plan plan;
  const LayerExchange exchange(model);
  const auto integers = integer_bits(model.graph());
  for (const auto& layer : exchange.layers()) {
    const auto exception = compile.node_precision.find(layer.name);
    const auto dtype = exception == compile.node_precision.end() ? compile.dtype : exception->second;
    const auto found = integers.find(layer.weight);
    auto bits = found == integers.end() ? std::min(stored.bits(layer.weight), 32) : found->second;
    if (bits == 32 && dtype == c10::ScalarType::BFloat16) bits = 16;
    plan.layers.push_back({layer.name, {bits}, layer.entries, 0.0, {}});
  }
  return plan;
}

std::uint64_t stored_bytes(const Model& model, const Plan& plan) {
  const WeightStorage stored(model);
  const LayerExchange exchange(model);
  auto bytes = stored.bytes();
  for (std::size_t i = 0; i < plan.layers.size(); ++i)
    if (const auto& layer = plan.layers[i]; layer.weights.count == 16 && stored.bits(exchange.layers()[i].weight) == 32)
      bytes -= 2 * static_cast<std::uint64_t>(layer.entries);
  return bytes;
}

PARE_NAMESPACE_END
