#include "pare/distill/drop_layers.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "distill/feature_taps.hpp"
#include "graph/layer_pattern.hpp"
#include "pare/distill/layer_map.hpp"
#include "pare/graph/fusion.hpp"

PARE_NAMESPACE_BEGIN

namespace {

std::vector<std::int64_t> positions(const DropLayers& options, std::int64_t n) {
  auto keep = options.keep;
  const auto count = options.layers != 0 ? options.layers : std::max<std::int64_t>(1, n / 2);
  if (keep.empty()) {
    if (count < 1 || count > n) fail("pare.distill.141", options.stack, "{} layers to keep of {}", count, n);
    for (std::int64_t i = 0; i < count; ++i) switch (options.choose) {
        case DropLayers::Choose::Uniform:
          keep.push_back((i + 1) * n / count - 1);
          break;
        case DropLayers::Choose::UniformLast:
          keep.push_back(count == 1 ? n - 1 : i * (n - 1) / (count - 1));
          break;
        case DropLayers::Choose::First:
          keep.push_back(i);
          break;
        case DropLayers::Choose::Last:
          keep.push_back(n - count + i);
          break;
      }
  }
  std::ranges::sort(keep);
  keep.erase(std::unique(keep.begin(), keep.end()), keep.end());
  if (keep.front() < 0 || keep.back() >= n)
    fail("pare.distill.141", options.stack, "layer {} of a stack of {}", keep.front() < 0 ? keep.front() : keep.back(),
         n);
  return keep;
}

ValueId feature_of(const Graph& graph, const std::string& path) {
  const auto found = locate_features(graph, {path});
  if (found.empty()) fail("pare.distill.142", path, "the layer computes nothing that another reads");
  return found.begin()->first;
}

// Whether a node computes a part of a layer: one of its module, or one that reads a weight of it, as it is or
// transposed. A linear layer over sequences is a product and a sum, and the product may stand under the module around
// the layer.
bool is_part_of(const Graph& graph, const Node& node, const std::string& layer) {
  if (is_within(node.module, layer)) return true;
  bool reads = false;
  for (const auto& operand : node.operands)
    operand.each_value([&](ValueId value) {
      const auto weight = table_weight(graph, value);
      reads |= weight != kNoValue && is_within(graph.value(weight).name, layer);
    });
  return reads;
}

// What the first layer of a stack reads: a value from outside of the type that the layer hands on.
ValueId input_of(const Graph& graph, const std::string& layer) {
  const auto output = feature_of(graph, layer);
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (!is_part_of(graph, node, layer)) continue;
    ValueId found = kNoValue;
    for (const auto& operand : node.operands)
      operand.each_value([&](ValueId value) {
        const auto* producer = graph.producer(value);
        const bool outside =
            graph.value(value).kind == ValueKind::Input || (producer && !is_part_of(graph, *producer, layer));
        if (found == kNoValue && outside && graph.value(value).type == graph.value(output).type) found = value;
      });
    if (found != kNoValue) return found;
  }
  fail("pare.distill.142", layer, "the layer does not hand on what it gets in the same shape: it cannot go");
}

// What a layer writes into its own state (a batch norm counts its batches) keeps its place in a graph: not without it.
void erase_counters(Rewriter& rewriter, const std::vector<std::string>& layers) {
  const auto nodes = rewriter.graph().nodes();
  for (auto id = nodes.rbegin(); id != nodes.rend(); ++id) {
    const auto& graph = rewriter.graph();
    const auto& node = graph.node(*id);
    const bool inside =
        std::ranges::any_of(layers, [&](const std::string& layer) { return is_within(node.module, layer); });
    if (inside && std::ranges::all_of(node.outputs, [&](ValueId value) { return graph.uses(value).empty(); }))
      rewriter.erase(*id);
  }
  rewriter.eliminate_dead();
}

}  // namespace

std::string longest_stack(const Graph& graph) {
  std::map<std::string, std::set<std::string>> children;
  std::vector<std::string> order;
  for (const auto id : graph.nodes()) {
    const std::string_view module = graph.node(id).module;
    for (std::size_t begin = 0; begin < module.size();) {
      const auto end = std::min(module.find('.', begin), module.size());
      const auto part = module.substr(begin, end - begin);
      if (std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; })) {
        const std::string stack(module.substr(0, begin == 0 ? 0 : begin - 1));
        if (!children.contains(stack)) order.push_back(stack);
        children[stack].insert(std::string(part));
      }
      begin = end + 1;
    }
  }
  std::string longest;
  std::size_t most = 1;
  for (const auto& stack : order)
    if (children[stack].size() > most) {
      most = children[stack].size();
      longest = stack;
    }
  if (most < 2) fail("pare.distill.140", "", "the model has no stack: no module with numbered children");
  return longest;
}

Preserved DropLayers::run(Model& model, Context& context) {
  const auto name = stack.empty() ? longest_stack(model.graph()) : stack;
  std::vector<std::string> paths;
  for (const auto id : model.graph().nodes()) paths.push_back(model.graph().node(id).module);
  const auto all = layers_of_stack(paths, name);
  if (all.empty()) fail("pare.distill.140", name, "the model has no such stack: no numbered children here");
  const auto kept = positions(*this, static_cast<std::int64_t>(all.size()));
  const auto stays = [&](std::size_t i) { return std::ranges::binary_search(kept, static_cast<std::int64_t>(i)); };
  std::vector<ValueId> values{input_of(model.graph(), all.front())};  // what layer i reads; what the last gives
  for (const auto& layer : all) values.push_back(feature_of(model.graph(), layer));
  for (std::size_t i = 0; i < all.size(); ++i)
    if (!stays(i) && model.graph().value(values[i]).type != model.graph().value(values[i + 1]).type)
      fail("pare.distill.142", all[i], "the layer does not hand on what it gets in the same shape: it cannot go");
  std::vector<std::string> gone;
  for (auto i = all.size(); i-- > 0;) {  // from behind, so that values before are still what they were
    if (stays(i)) {
      context.report().declined(all[i], "layer", "kept");
    } else {
      context.rewriter().replace_uses(values[i + 1], values[i]);
      context.report().done(all[i], "layer", "dropped");
      gone.push_back(all[i]);
    }
  }
  context.rewriter().eliminate_dead();
  erase_counters(context.rewriter(), gone);
  return Preserved::none();
}

PARE_NAMESPACE_END
