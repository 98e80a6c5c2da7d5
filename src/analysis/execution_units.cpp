#include "execution_units.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "pare/analysis/cost.hpp"
#include "pare/graph/fusion.hpp"

PARE_NAMESPACE_BEGIN

namespace {

class UnitFinder {
 public:
  UnitFinder(const Model& model, const std::vector<std::int64_t>& dims, const CompileOptions& options)
      : model_(model),
        graph_(model.graph()),
        dims_(dims),
        options_(options),
        unit_of_value_(graph_.value_count(), kNone) {}

  ExecutionUnits run() {
    std::vector<const FusedRegion*> ends_at;
    std::set<std::size_t> inside;
    const auto regions = match_regions(graph_);
    for (const auto& region : regions) {
      for (const auto id : region.nodes) inside.insert(index(id));
      for (const auto id : region.weight_nodes) inside.insert(index(id));
    }
    std::unordered_map<std::size_t, const FusedRegion*> last;
    for (const auto& region : regions) last[index(region.nodes.back())] = &region;
    for (const auto id : graph_.nodes()) {
      const auto& node = graph_.node(id);
      if (node.condition == Condition::Training) continue;
      if (const auto found = last.find(index(id)); found != last.end())
        add(found->second->nodes, found->second->anchor, found->second);
      else if (!inside.contains(index(id)))
        add({id}, id, nullptr);
    }
    for (std::size_t unit = 0; unit < result_.units.size(); ++unit) result_.units[unit].context = context_of(unit);
    result_.call = "call";
    for (const auto* values : {&graph_.inputs(), &graph_.outputs()}) {
      result_.call += " |";
      for (const auto value : *values)
        if (value != kNoValue) result_.call += ' ' + sizes_text(value);
    }
    charge();
    return std::move(result_);
  }

 private:
  static constexpr auto kNone = static_cast<std::size_t>(-1);

  [[nodiscard]] std::vector<std::int64_t> sizes(ValueId value) const {
    return graph_.value(value).type.sizes_at(dims_);
  }
  [[nodiscard]] std::uint64_t elements(ValueId value) const {
    const auto all = sizes(value);
    return static_cast<std::uint64_t>(std::accumulate(all.begin(), all.end(), std::int64_t{1}, std::multiplies<>()));
  }
  [[nodiscard]] std::string sizes_text(ValueId value) const {
    return fmt::format("[{}]", fmt::join(sizes(value), "x"));
  }

  [[nodiscard]] std::string dtype_of(NodeId id) const {
    const auto found = options_.node_precision.find(graph_.node(id).name);
    const auto type = found == options_.node_precision.end() ? options_.dtype : found->second;
    return type == at::kBFloat16 ? "bf16" : "float32";
  }

  // Whether a value is integers: behind ops that hand them on, a fake-quantize.
  [[nodiscard]] bool is_integer(ValueId value) const {
    for (;;) {
      const auto* node = graph_.producer(value);
      if (!node) return false;
      if (family_of(node->op) == OpFamily::FakeQuantize) return true;
      if (!passes_integers(graph_, node->id) || node->operands.empty()) return false;
      ValueId from = kNoValue;
      node->operands[0].each_value([&](ValueId one) { from = from == kNoValue ? one : from; });
      if (from == kNoValue) return false;
      value = from;
    }
  }

  // In which precision a value lies in memory.
  [[nodiscard]] std::string stored(ValueId value) const {
    if (graph_.value(value).type.dtype != at::kFloat) return std::string(c10::toString(graph_.value(value).type.dtype));
    if (is_integer(value)) return "int8";
    const auto* node = graph_.producer(value);
    return node ? dtype_of(node->id) : "float32";
  }
  static std::uint64_t width(const std::string& precision) {
    return precision == "int8" ? 1 : precision == "bf16" ? 2 : precision == "Long" ? 8 : 4;
  }

  [[nodiscard]] std::string precision_of(NodeId anchor, const FusedRegion* region) const {
    const auto& node = graph_.node(anchor);
    if (family_of(node.op) == OpFamily::FakeQuantize) return "int8";
    if (!region) return dtype_of(anchor);
    const bool integer_weight = std::ranges::any_of(
        region->weight_nodes, [&](NodeId id) { return family_of(graph_.node(id).op) == OpFamily::FakeQuantize; });
    if (region->family == OpFamily::Embedding) return integer_weight ? "int8" : dtype_of(anchor);
    if (region->weight != kNoValue && !integer_weight) return dtype_of(anchor);
    const bool integers = !region->inputs.empty() &&
                          std::ranges::all_of(region->inputs, [&](ValueId value) { return is_integer(value); });
    return integers ? "int8" : dtype_of(anchor);
  }

  [[nodiscard]] std::string constants_of(const Node& node) const {
    std::string text;
    for (const auto& operand : node.operands) {
      if (const auto* flag = operand.get<Flag>()) text += fmt::format(" {}", static_cast<int>(*flag));
      if (const auto* one = operand.get<SymbolicInt>()) text += fmt::format(" {}", one->evaluate(dims_));
      if (const auto* many = operand.get<Operand::Ints>())
        for (const auto& one : *many) text += fmt::format(" {}", one.evaluate(dims_));
    }
    return text;
  }

  void add(const std::vector<NodeId>& nodes, NodeId anchor, const FusedRegion* region) {
    const auto& main = graph_.node(anchor);
    ExecutionUnit unit{main.name, main.op.name(), precision_of(anchor, region)};
    const auto number = result_.units.size();
    if (region && region->weight != kNoValue) unit.weight = graph_.value(region->weight).name;
    unit.what = unit.precision;
    std::set<std::size_t> own;
    for (const auto id : nodes) {
      const auto& node = graph_.node(id);
      result_.unit_of.emplace(node.name, number);
      unit.what += ' ' + node.op.name() + constants_of(node);
      unit.macs += macs_of(graph_, node, [&](ValueId value) { return sizes(value); });
      for (const auto& operand : node.operands)
        operand.each_value([&](ValueId value) {
          if (own.contains(index(value))) return;
          unit.what += ' ' + sizes_text(value);
          const bool weight = table_weight(graph_, value) != kNoValue;
          if (!weight) unit.inputs.push_back(value);
          unit.bytes += elements(value) * (weight ? width(unit.precision) : width(stored(value)));
        });
      for (const auto output : node.outputs) {
        own.insert(index(output));
        unit_of_value_[index(output)] = number;
      }
    }
    for (const auto output : graph_.node(nodes.back()).outputs) {
      unit.what += " > " + sizes_text(output);
      unit.bytes += elements(output) * width(left_in(output));
      outputs_.resize(number + 1);
      outputs_[number].push_back(output);
    }
    outputs_.resize(number + 1);
    if (region)
      for (const auto id : region->weight_nodes) result_.unit_of.emplace(graph_.node(id).name, number);
    result_.units.push_back(std::move(unit));
  }

  // How a kernel stores its result: as its only reader wants it.
  [[nodiscard]] std::string left_in(ValueId value) const {
    const auto& uses = graph_.uses(value);
    if (uses.size() == 1 && uses[0].node != kNoNode &&
        family_of(graph_.node(uses[0].node).op) == OpFamily::FakeQuantize)
      return "int8";
    return stored(value);
  }

  [[nodiscard]] std::string context_of(std::size_t number) const {
    const auto& unit = result_.units[number];
    std::string text = " |";
    for (const auto value : unit.inputs) {
      text += ' ' + stored(value);
      const auto from = unit_of_value_[index(value)];
      if (from != kNone) text += " of " + result_.units[from].precision;
    }
    text += " |";
    for (const auto output : outputs_[number]) {
      std::set<std::string> readers;
      for (const auto& use : graph_.uses(output)) {
        if (use.node == kNoNode) {
          readers.insert("result");
        } else if (family_of(graph_.node(use.node).op) == OpFamily::FakeQuantize) {
          readers.insert("quantized");
        } else if (const auto found = result_.unit_of.find(graph_.node(use.node).name);
                   found != result_.unit_of.end()) {
          readers.insert(result_.units[found->second].precision);
        }
      }
      text += fmt::format(" {}", fmt::join(readers, "+"));
    }
    return text;
  }

  void charge() {
    auto& charged = result_.charged_to;
    std::string first;
    for (const auto& unit : result_.units)
      if (first.empty()) first = unit.weight;
    for (const auto& unit : result_.units) {
      auto to = unit.weight;
      for (auto value = unit.inputs.begin(); to.empty() && value != unit.inputs.end(); ++value)
        if (const auto from = unit_of_value_[index(*value)]; from < charged.size()) to = charged[from];
      charged.push_back(to.empty() ? first : to);
    }
  }

  const Model& model_;
  const Graph& graph_;
  const std::vector<std::int64_t>& dims_;
  const CompileOptions& options_;
  ExecutionUnits result_;
  std::vector<std::size_t> unit_of_value_;
  std::vector<std::vector<ValueId>> outputs_;  // of each unit
};

}  // namespace

ExecutionUnits find_execution_units(const Model& model, const std::vector<std::int64_t>& dims,
                                    const CompileOptions& options) {
  return UnitFinder(model, dims, options).run();
}

PARE_NAMESPACE_END
