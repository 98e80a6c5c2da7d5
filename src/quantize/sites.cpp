#include "sites.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "graph/layer_pattern.hpp"
#include "pare/analysis/cost.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// Families that are quantized only where integers come in and integers are wanted: alone they are not worth a rounding.
bool is_elective(OpFamily family) {
  switch (family) {
    case OpFamily::Addition:
    case OpFamily::Multiplication:
    case OpFamily::AveragePooling:
    case OpFamily::Activation:
      return true;
    default:
      return false;
  }
}

/// Decides region by region, then gathers the values that integer regions read.
class SiteFinder {
 public:
  SiteFinder(const Model& model, const SiteRequest& request) : model_(model), graph_(model.graph()), request_(request) {
    parent_.resize(graph_.value_count());
    std::iota(parent_.begin(), parent_.end(), std::size_t{0});
    needed_.resize(graph_.value_count(), false);
    signed_.resize(graph_.value_count(), false);
    bits_.resize(graph_.value_count(), Bits{0});
    region_of_.resize(graph_.value_count(), kNone);
  }

  Sites run() {
    const auto& fusion = request_.target.fusion;
    for (auto& region : match_regions(graph_, fusion.empty() ? default_fusion_rules() : fusion))
      result_.layers.push_back({std::move(region), Arithmetic::Float, {}});
    for (std::size_t i = 0; i < result_.layers.size(); ++i) region_of_[index(result_.layers[i].region.output)] = i;
    check_patterns();
    for (auto& layer : result_.layers) decide(layer);
    spare_first();
    elect();
    for (auto& layer : result_.layers)
      if (layer.arithmetic == Arithmetic::Integer) {
        need_inputs(layer.region);
        need_output(layer);
      }
    gather();
    return std::move(result_);
  }

 private:
  static constexpr auto kNone = static_cast<std::size_t>(-1);
  // Tables of token types and the like are added to every token, and int8 would save 12 KiB at most.
  static constexpr std::int64_t kSmallTable = 4096;

  void check_patterns() const {
    const auto check = [&](const std::string& pattern, std::string_view option) {
      if (std::ranges::none_of(graph_.nodes(), [&](NodeId id) { return names_layer(graph_.node(id), pattern); }))
        fail("pare.quantize.105", pattern, "this {} pattern fits no layer; names are those of the report", option);
    };
    for (const auto& pattern : request_.keep_float) check(pattern, "keep_float");
    for (const auto& [pattern, bits] : request_.layer_weights) check(pattern, "layer_weights");
    for (const auto& [pattern, bits] : request_.layer_activations) check(pattern, "layer_activations");
  }

  bool kept_float(const FusedRegion& region) const {
    const auto& layer = graph_.node(region.anchor);
    if (std::ranges::find(request_.keep_float, layer.name) != request_.keep_float.end()) return true;
    // A plan names every layer: one that has bits of its own is not meant by the name of a module around it.
    if (std::ranges::any_of(request_.layer_weights, [&](const auto& wish) { return wish.first == layer.name; }))
      return false;
    return std::ranges::any_of(request_.keep_float, [&](const auto& pattern) { return names_layer(layer, pattern); });
  }

  bool is_float(ValueId value) const {
    return value != kNoValue && graph_.value(value).type.dtype == c10::ScalarType::Float;
  }

  void decide(Layer& layer) const {
    const auto& region = layer.region;
    const auto* support = request_.target.find(region.family);
    if (region.family == OpFamily::Concatenation) {
      layer.reason = "moves elements: its inputs share one scale where integers are wanted";
      return;
    }
    if (kept_float(region)) {
      layer.reason = "kept float on request";
      return;
    }
    if (!support) {
      layer.reason = fmt::format("{} has no integer {}", request_.target.name, name_of(region.family));
      return;
    }
    const bool weighted = !support->weights.empty();
    const bool recurrent = region.family == OpFamily::Recurrent;
    if (weighted && !recurrent && region.weight == kNoValue) {
      layer.reason = "its weight is computed";
      return;
    }
    if (weighted && !recurrent && !is_float(region.weight)) {
      layer.reason = "its weight is not float32";
      return;
    }
    if (region.family == OpFamily::Embedding && elements(region.weight) < kSmallTable) {
      layer.reason = fmt::format("a table of {} weights: too small to gain anything", elements(region.weight));
      return;
    }
    if (weighted && (request_.weight_only || support->activations.empty())) {
      layer.arithmetic = Arithmetic::WeightOnly;
      layer.reason = request_.weight_only ? "activations float on request" : support->reason;
      return;
    }
    if (request_.weight_only || support->activations.empty()) {
      layer.reason = support->reason.empty() ? "no weights to quantize" : support->reason;
      return;
    }
    if (std::ranges::any_of(region.inputs, [&](ValueId value) { return !is_float(value); })) {
      layer.reason = "an input is not a float32 tensor";
      return;
    }
    if (is_elective(region.family)) {
      layer.reason = "neighbours are float";
      return;
    }
    if (region.family == OpFamily::MatrixMultiply && !is_product(region)) {
      layer.reason = "a product with an added matrix or a vector";
      return;
    }
    layer.arithmetic = Arithmetic::Integer;
  }

  // Layers that read the model's inputs and are a small part of the work: an image rounded to 8 bits is off in every
  // layer behind, and nothing makes up for it.
  void spare_first() {
    std::vector<Layer*> first;
    for (auto& layer : result_.layers)
      if (layer.arithmetic == Arithmetic::Integer && reads_inputs(layer.region) && !asked_for(layer.region))
        first.push_back(&layer);
    if (first.empty() || request_.float_first_share <= 0.0) return;
    const Cost cost(model_);
    std::int64_t macs = 0;
    for (const auto& counted : cost.layers())
      if (std::ranges::any_of(first, [&](const Layer* layer) { return layer->region.anchor == counted.node; }))
        macs += counted.macs;
    const double share = static_cast<double>(macs) / static_cast<double>(std::max<std::int64_t>(cost.macs(), 1));
    if (share > request_.float_first_share) return;
    for (auto* layer : first) {
      layer->arithmetic = Arithmetic::Float;
      layer->reason = fmt::format("first, and {:.2g} % of the work: float costs little there", share * 100);
    }
  }

  bool reads_inputs(const FusedRegion& region) {
    const auto* support = request_.target.find(region.family);
    if (region.weight == kNoValue || !support->float_output) return false;
    const auto from = sources(region.inputs[0]);
    return std::ranges::all_of(from, [&](ValueId value) { return graph_.producer(value) == nullptr; });
  }

  // Bits of its own: a layer that is to be integers.
  bool asked_for(const FusedRegion& region) const {
    const auto& layer = graph_.node(region.anchor);
    return wish_for(layer, request_.layer_weights) || wish_for(layer, request_.layer_activations);
  }

  std::int64_t elements(ValueId value) const {
    std::int64_t count = 1;
    for (const auto& size : graph_.value(value).type.sizes) count *= size.constant().value_or(1);
    return count;
  }

  bool is_product(const FusedRegion& region) const {
    const auto& node = graph_.node(region.anchor);
    return node.operands.size() == 2 && graph_.value(region.inputs[0]).type.rank() >= 2 &&
           graph_.value(region.inputs[1]).type.rank() >= 2;
  }

  bool could_be_integer(const Layer& layer) const {
    if (layer.arithmetic == Arithmetic::Integer) return true;
    if (layer.arithmetic != Arithmetic::Float || !is_elective(layer.region.family) || kept_float(layer.region))
      return false;
    return request_.target.find(layer.region.family) && !request_.weight_only &&
           std::ranges::all_of(layer.region.inputs, [&](ValueId value) { return is_float(value); });
  }

  // Elective regions: forwards, where all inputs can be integers; then backwards, where the result is wanted as
  // integers.
  void elect() {
    std::vector<bool> possible(result_.layers.size(), false);
    for (std::size_t i = 0; i < result_.layers.size(); ++i) {
      const auto& layer = result_.layers[i];
      possible[i] = could_be_integer(layer);
      if (!possible[i] || layer.arithmetic == Arithmetic::Integer) continue;
      for (const auto input : layer.region.inputs)
        for (const auto source : sources(input)) {
          const auto from = region_of_[index(source)];
          possible[i] = possible[i] && from != kNone && possible[from];
        }
    }
    std::set<std::size_t> wanted;
    const auto want = [&](const Layer& layer) {
      for (const auto input : inputs_of(layer.region))
        for (const auto source : sources(input)) wanted.insert(index(source));
    };
    for (std::size_t i = result_.layers.size(); i-- > 0;) {
      auto& layer = result_.layers[i];
      if (layer.arithmetic != Arithmetic::Integer && possible[i] && wanted.contains(index(layer.region.output))) {
        layer.arithmetic = Arithmetic::Integer;
        layer.reason.clear();
      }
      if (layer.arithmetic == Arithmetic::Integer) want(layer);
    }
  }

  std::vector<ValueId> inputs_of(const FusedRegion& region) const {
    auto inputs = region.inputs;
    if (region.residual != kNoValue) inputs.push_back(region.residual);
    return inputs;
  }

  // The operands whose elements a node hands on.
  std::vector<ValueId> moved(const Node& node) const {
    std::vector<ValueId> values;
    if (node.operands.empty()) return values;
    if (family_of(node.op) == OpFamily::Concatenation)
      node.operand(0).each_value([&](ValueId value) { values.push_back(value); });
    else if (node.input(0) != kNoValue)
      values.push_back(node.input(0));
    return values;
  }

  // The values that a value's producer hands on; none where the value is a source itself. What becomes float only as
  // it is concatenated cannot be rounded before.
  std::vector<ValueId> handed_on(ValueId value) const {
    const auto* node = graph_.producer(value);
    if (!node || !passes_integers(graph_, node->id) || !is_float(value)) return {};
    auto values = moved(*node);
    if (!std::ranges::all_of(values, [&](ValueId from) { return is_float(from); })) values.clear();
    return values;
  }

  // The values that a value's elements come from, behind ops that only move them.
  std::vector<ValueId> sources(ValueId value) {
    const auto values = handed_on(value);
    if (values.empty()) return {value};
    std::vector<ValueId> result;
    for (const auto from : values)
      for (const auto source : sources(from))
        if (std::ranges::find(result, source) == result.end()) result.push_back(source);
    return result;
  }

  std::size_t root(std::size_t value) {
    while (parent_[value] != value) value = parent_[value] = parent_[parent_[value]];
    return value;
  }

  // Marks the uses on the way from the sources, so that only those read integers where the source itself is float.
  void mark_path(ValueId value, Use use) {
    if (std::ranges::find(result_.integer_uses, use) != result_.integer_uses.end()) return;
    result_.integer_uses.push_back(use);
    for (const auto from : handed_on(value)) mark_path(from, {graph_.producer(value)->id, 0});
  }

  bool comes_in_integers(ValueId value) {
    return std::ranges::all_of(sources(value), [&](ValueId source) {
      const auto from = region_of_[index(source)];
      return from != kNone && result_.layers[from].arithmetic == Arithmetic::Integer;
    });
  }

  Bits input_bits(const FusedRegion& region) const {
    const auto* bits = wish_for(graph_.node(region.anchor), request_.layer_activations);
    return bits == nullptr ? request_.activations : *bits;
  }

  void need_inputs(const FusedRegion& region) {
    const auto bits = input_bits(region);
    const auto need = [&](ValueId value, NodeId reader) {
      for (const auto& use : graph_.uses(value))
        if (use.node == reader) mark_path(value, use);
      const auto from = sources(value);
      for (const auto source : from) {
        needed_[index(source)] = true;
        bits_[index(source)] = std::max(bits_[index(source)], bits);
        parent_[root(index(source))] = root(index(from.front()));
      }
    };
    for (const auto input : region.inputs) need(input, region.anchor);
    // A sum takes its other side in float as readily: the output of a norm need not be rounded for it.
    if (region.residual != kNoValue && comes_in_integers(region.residual)) need(region.residual, region.residual_add);
    // The right-hand side of a product takes the place of weights: signed, zero in the middle.
    if (region.family == OpFamily::MatrixMultiply)
      for (const auto source : sources(region.inputs[1])) signed_[index(source)] = true;
  }

  // Kernels that write nothing but integers: whoever reads.
  void need_output(Layer& layer) {
    const auto* support = request_.target.find(layer.region.family);
    if (!support || support->float_output) return;
    layer.integers_only = true;
    const auto at = index(layer.region.output);
    needed_[at] = true;
    bits_[at] = std::max(bits_[at], request_.activations);
  }

  // Values that share a scale share bits and sign.
  void share() {
    for (std::size_t i = 0; i < needed_.size(); ++i) {
      if (!needed_[i]) continue;
      bits_[root(i)] = std::max(bits_[root(i)], bits_[i]);
      if (signed_[i]) signed_[root(i)] = true;
    }
  }

  void gather() {
    share();
    std::map<std::size_t, std::size_t> by_root;
    for (std::size_t i = 0; i < needed_.size(); ++i) {
      if (!needed_[i]) continue;
      const auto [at, fresh] = by_root.emplace(root(i), result_.sites.size());
      const auto bits = bits_[root(i)];
      if (fresh)
        result_.sites.push_back(
            {{}, signed_[root(i)] ? IntegerGrid::signed_symmetric(bits) : IntegerGrid::unsigned_affine(bits)});
      result_.sites[at->second].values.push_back(ValueId{static_cast<std::uint32_t>(i)});
      result_.site_of.emplace(i, at->second);
    }
    for (auto& layer : result_.layers) {
      if (layer.arithmetic != Arithmetic::Integer || layer.region.inputs.empty()) continue;
      const auto site = result_.site_of.find(index(sources(layer.region.inputs[0]).front()));
      if (site != result_.site_of.end()) layer.input_site = site->second;
    }
  }

  const Model& model_;
  const Graph& graph_;
  const SiteRequest& request_;
  Sites result_;
  std::vector<std::size_t> parent_;     // union of values that share a scale
  std::vector<bool> needed_, signed_;   // by ValueId
  std::vector<Bits> bits_;              // by ValueId: the most that a reader asks for
  std::vector<std::size_t> region_of_;  // by the ValueId of a region's output
};

}  // namespace

Sites find_sites(const Model& model, const SiteRequest& request) { return SiteFinder(model, request).run(); }

PARE_NAMESPACE_END
