#include "pare/analysis/cost.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <ostream>

#include "pare/core/error.hpp"
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

Sizes evaluated(const TensorType& type, const Sizes& dims) {
  Sizes sizes;
  for (const auto& size : type.sizes) sizes.push_back(size.evaluate(dims));
  return sizes;
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
  const Shapes shapes = [&](ValueId id) { return evaluated(graph.value(id).type, dims); };
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (node.condition == Condition::Training || node.outputs.empty()) continue;
    const auto macs = macs_of(graph, node, shapes);
    if (macs == 0) continue;
    layers_.push_back({id, node.name, node.module, node.op.name(), macs});
    macs_ += macs;
  }
  for (const auto& [path, weight] : model.weights()) {
    weight_bytes_ += static_cast<std::int64_t>(weight.tensor.nbytes());
    if (!weight.is_parameter) continue;
    parameters_ += weight.tensor.numel();
    const auto dot = path.rfind('.');
    owned_.emplace_back(dot == std::string::npos ? std::string() : path.substr(0, dot), weight.tensor.numel());
  }
}

std::string Cost::text() const {
  struct Row {
    std::int64_t macs = 0, parameters = 0;
  };
  std::map<std::string, Row> rows;
  const auto add = [&](std::string path, std::int64_t macs, std::int64_t parameters) {
    for (;;) {
      rows[path].macs += macs;
      rows[path].parameters += parameters;
      if (path.empty()) return;
      const auto dot = path.rfind('.');
      path = dot == std::string::npos ? std::string() : path.substr(0, dot);
    }
  };
  for (const auto& layer : layers_) add(layer.module, layer.macs, 0);
  for (const auto& [module, entries] : owned_) add(module, 0, entries);
  auto text = fmt::format("{:<48} {:>16} {:>6} {:>14}\n", "module", "MACs", "%", "parameters");
  for (const auto& [path, row] : rows) {
    const auto depth = path.empty() ? 0 : 1 + std::ranges::count(path, '.');
    const auto name = std::string(2 * static_cast<std::size_t>(depth), ' ') +
                      (path.empty() ? "(model)" : path.substr(path.rfind('.') + 1));
    text += fmt::format("{:<48} {:>16} {:>6.1f} {:>14}\n", name, row.macs,
                        100.0 * static_cast<double>(row.macs) / static_cast<double>(std::max<std::int64_t>(macs_, 1)),
                        row.parameters);
  }
  return text;
}

std::ostream& operator<<(std::ostream& stream, const Cost& cost) { return stream << cost.text(); }

PARE_NAMESPACE_END
