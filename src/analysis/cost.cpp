#include "pare/analysis/cost.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <ostream>

#include "pare/core/error.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Sizes = std::vector<std::int64_t>;

std::int64_t product(const Sizes& sizes, std::size_t from = 0) {
  return std::accumulate(sizes.begin() + static_cast<std::ptrdiff_t>(std::min(from, sizes.size())), sizes.end(),
                         std::int64_t{1}, std::multiplies<>());
}

// Every row of every gate meets its input once a step.
std::int64_t recurrent_macs(const Node& node, const Shapes& shapes) {
  const auto* params = node.operand("params").get<Operand::Values>();
  if (!params) return 0;
  const auto x = shapes(node.input(0));
  std::int64_t weights = 0;
  for (const auto param : *params)
    if (const auto sizes = shapes(param); sizes.size() == 2) weights += product(sizes);
  return weights * (product(x) / x.back());
}

std::int64_t attention_macs(const Node& node, const Shapes& shapes) {
  const auto query = shapes(node.input(0)), key = shapes(node.input(1)), value = shapes(node.input(2));
  const auto scores = product(query) / query.back() * key[key.size() - 2];
  return scores * (query.back() + value.back());
}

// Operations of a node beside multiply-accumulates: one for each result of an elementwise op, norm or pooling.
std::int64_t elementwise_flops(const Graph& graph, const Node& node, const Shapes& shapes) {
  switch (family_of(graph, node.id)) {
    case OpFamily::Normalization:
    case OpFamily::Addition:
    case OpFamily::Multiplication:
    case OpFamily::Activation:
    case OpFamily::Softmax:
    case OpFamily::AveragePooling:
      return product(shapes(node.output()));
    default:
      return 0;
  }
}

// Whether an operator returns a view of its first operand.
bool returns_view(const Node& node) {
  const auto& returns = node.op.schema().returns();
  return !returns.empty() && returns[0].alias_info() != nullptr && !returns[0].alias_info()->isWrite() &&
         !node.operands.empty() && node.input(0) != kNoValue;
}

std::int64_t bytes_of(const TensorType& type, const Sizes& sizes) {
  return product(sizes) * static_cast<std::int64_t>(c10::elementSize(type.dtype));
}

}  // namespace

std::int64_t macs_of(const Graph& graph, const Node& node, const Shapes& shapes) {
  switch (family_of(graph, node.id)) {
    case OpFamily::Convolution:
      return product(shapes(node.output())) * product(shapes(node.input(1)), 1);
    case OpFamily::TransposedConvolution:
      return product(shapes(node.input(0))) * product(shapes(node.input(1)), 1);
    case OpFamily::Linear:
    case OpFamily::MatrixMultiply: {
      const bool adds = node.is("aten::addmm") || node.is("aten::baddbmm");
      return product(shapes(node.output())) * shapes(node.input(adds ? 1 : 0)).back();
    }
    case OpFamily::Attention:
      return attention_macs(node, shapes);
    case OpFamily::Recurrent:
      return recurrent_macs(node, shapes);
    default:
      return 0;
  }
}

Cost::Cost(const Model& model) {
  auto dims = model.graph().example_dims();
  if (!dims.empty()) dims.front() = 1;
  count(model, dims);
}

Cost::Cost(const Model& model, const std::vector<std::int64_t>& dims) {
  if (dims.size() != model.graph().dims().size())
    fail("pare.analysis.104", "", "{} sizes for {} dims", dims.size(), model.graph().dims().size());
  count(model, dims);
}

void Cost::count(const Model& model, const std::vector<std::int64_t>& dims) {
  const auto& graph = model.graph();
  const Shapes shapes = [&](ValueId id) { return graph.value(id).type.sizes_at(dims); };
  const auto bytes = [&](ValueId id) { return bytes_of(graph.value(id).type, shapes(id)); };
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (node.condition == Condition::Training || node.outputs.empty()) continue;
    Layer layer{id, node.name, node.module, node.op.name(), macs_of(graph, node, shapes)};
    layer.flops = 2 * layer.macs + elementwise_flops(graph, node, shapes);
    for (const auto& operand : node.operands)
      operand.each_value([&](ValueId value) {
        layer.bytes += bytes(value);
        const auto weight = table_weight(graph, value);
        if (weight != kNoValue && model.weights().at(graph.value(weight).name).is_parameter)
          layer.parameters += product(shapes(weight));
      });
    for (const auto output : node.outputs) layer.bytes += bytes(output);
    flops_ += layer.flops;
    if (!returns_view(node)) work_.push_back({node.module, layer.macs, layer.flops, layer.bytes, 0});
    if (layer.macs == 0) continue;
    macs_ += layer.macs;
    layers_.push_back(std::move(layer));
  }
  follow_activations(model, dims);
  for (const auto& [path, weight] : model.weights()) {
    weight_bytes_ += static_cast<std::int64_t>(weight.tensor.nbytes());
    if (!weight.is_parameter) continue;
    parameters_ += weight.tensor.numel();
    const auto dot = path.rfind('.');
    owned_.emplace_back(dot == std::string::npos ? std::string() : path.substr(0, dot), weight.tensor.numel());
  }
}

// Values live from their node to their last reader; a view keeps alive what it looks at.
void Cost::follow_activations(const Model& model, const std::vector<std::int64_t>& dims) {
  const auto& graph = model.graph();
  std::vector<ValueId> root(graph.value_count());
  for (std::size_t i = 0; i < root.size(); ++i) root[i] = ValueId{static_cast<std::uint32_t>(i)};
  constexpr auto kNever = static_cast<std::size_t>(-1);
  std::vector<std::size_t> last(root.size(), 0);
  std::size_t at = 0;
  const auto each = [&](auto&& visit) {
    at = 0;
    for (const auto id : graph.nodes()) {
      const auto& node = graph.node(id);
      if (node.condition == Condition::Training || node.outputs.empty()) continue;
      ++at;
      visit(node);
    }
  };
  const auto fixed = [&](ValueId value) {
    return graph.value(value).kind == ValueKind::Weight || table_weight(graph, value) != kNoValue;
  };
  each([&](const Node& node) {
    for (const auto& operand : node.operands)
      operand.each_value([&](ValueId value) { last[index(root[index(value)])] = at; });
    for (const auto output : node.outputs) {
      if (returns_view(node)) root[index(output)] = root[index(node.input(0))];
      auto& until = last[index(root[index(output)])];
      until = std::max(until, at);  // what nobody reads lives while its node runs
    }
  });
  for (const auto output : graph.outputs())
    if (output != kNoValue) last[index(root[index(output)])] = kNever;
  const auto bytes = [&](ValueId value) {
    const auto& type = graph.value(value).type;
    return fixed(value) ? 0 : bytes_of(type, type.sizes_at(dims));
  };
  std::int64_t alive = 0;
  for (const auto input : graph.inputs()) alive += bytes(input);
  auto work = work_.begin();
  each([&](const Node& node) {
    if (returns_view(node)) return;
    for (const auto output : node.outputs) alive += bytes(output);
    (work++)->alive = alive;
    if (alive > activation_peak_) {
      activation_peak_ = alive;
      peak_at_ = node.name;
    }
    for (std::size_t i = 0; i < last.size(); ++i) {
      const ValueId value{static_cast<std::uint32_t>(i)};
      if (last[i] == at && root[i] == value && !fixed(value)) alive -= bytes(value);
    }
  });
}

std::string Cost::text() const {
  struct Row {
    std::int64_t macs = 0, parameters = 0, flops = 0, bytes = 0, peak = 0;
  };
  std::map<std::string, Row> rows;
  const auto each_module = [&](std::string path, auto&& visit) {
    for (;;) {
      visit(rows[path]);
      if (path.empty()) return;
      const auto dot = path.rfind('.');
      path = dot == std::string::npos ? std::string() : path.substr(0, dot);
    }
  };
  for (const auto& work : work_)
    each_module(work.module, [&](Row& row) {
      row.macs += work.macs;
      row.flops += work.flops;
      row.bytes += work.bytes;
      row.peak = std::max(row.peak, work.alive);
    });
  for (const auto& [module, entries] : owned_)
    each_module(module, [&, count = entries](Row& row) { row.parameters += count; });
  const auto share = [&](std::int64_t macs) {
    return 100.0 * static_cast<double>(macs) / static_cast<double>(std::max<std::int64_t>(macs_, 1));
  };
  auto text = fmt::format("{:<48} {:>14} {:>6} {:>14} {:>12} {:>12} {:>8} {:>12}\n", "module", "MACs", "%", "FLOPs",
                          "parameters", "bytes moved", "op/byte", "alive bytes");
  for (const auto& [path, row] : rows) {
    const auto depth = path.empty() ? 0 : 1 + std::ranges::count(path, '.');
    const auto name = std::string(2 * static_cast<std::size_t>(depth), ' ') +
                      (path.empty() ? "(model)" : path.substr(path.rfind('.') + 1));
    text +=
        fmt::format("{:<48} {:>14} {:>6.1f} {:>14} {:>12} {:>12} {:>8.1f} {:>12}\n", name, row.macs, share(row.macs),
                    row.flops, row.parameters, row.bytes,
                    row.bytes > 0 ? static_cast<double>(row.flops) / static_cast<double>(row.bytes) : 0.0, row.peak);
  }
  return text;
}

std::ostream& operator<<(std::ostream& stream, const Cost& cost) { return stream << cost.text(); }

PARE_NAMESPACE_END
