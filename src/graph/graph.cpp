#include "pare/graph/graph.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <unordered_set>

#include "graph/operators.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/graph_builder.hpp"

PARE_NAMESPACE_BEGIN

// ---- SymbolicInt

SymbolicInt::SymbolicInt(std::int64_t constant) : offset_(constant) {}

SymbolicInt::SymbolicInt(std::vector<Term> terms, std::int64_t divisor) : divisor_(divisor) {
  for (auto& term : terms) {
    if (term.coefficient == 0) continue;
    if (term.dims.empty()) {
      offset_ += term.coefficient;
    } else {
      terms_.push_back(std::move(term));
    }
  }
  if (terms_.empty() && divisor_ != 1) {
    offset_ = evaluate({});
    divisor_ = 1;
  }
}

SymbolicInt SymbolicInt::dim(std::uint32_t index) { return SymbolicInt(std::vector<Term>{{1, {index}}}); }

std::int64_t SymbolicInt::evaluate(std::span<const std::int64_t> dims) const {
  std::int64_t sum = offset_;
  for (const auto& term : terms_) {
    std::int64_t product = term.coefficient;
    for (const auto dim : term.dims) product *= dims[dim];
    sum += product;
  }
  if (divisor_ == 1) return sum;
  const std::int64_t quotient = sum / divisor_;
  return quotient - (sum % divisor_ < 0 ? 1 : 0);  // floor, as sizes are computed
}

std::optional<std::int64_t> SymbolicInt::constant() const {
  if (terms_.empty()) return offset_;
  return std::nullopt;
}

std::string SymbolicInt::text(std::span<const std::string> names) const {
  std::string sum;
  for (const auto& term : terms_) {
    const auto magnitude = term.coefficient < 0 ? -term.coefficient : term.coefficient;
    if (!sum.empty()) sum += term.coefficient < 0 ? " - " : " + ";
    if (sum.empty() && term.coefficient < 0) sum += "-";
    if (magnitude != 1) sum += fmt::format("{}*", magnitude);
    for (std::size_t i = 0; i < term.dims.size(); ++i) {
      if (i > 0) sum += "*";
      sum += names[term.dims[i]];
    }
  }
  if (terms_.empty()) return fmt::format("{}", offset_);
  if (offset_ != 0) sum += fmt::format(" {} {}", offset_ < 0 ? "-" : "+", offset_ < 0 ? -offset_ : offset_);
  return divisor_ == 1 ? sum : fmt::format("({}) / {}", sum, divisor_);
}

// ---- Operand

// ---- Op

namespace {

const std::string* intern(const c10::OperatorName& name) {
  static std::mutex mutex;
  static std::set<std::string> names;
  const std::lock_guard lock(mutex);
  return &*names.insert(name.overload_name.empty() ? name.name : name.name + "." + name.overload_name).first;
}

c10::OperatorHandle look_up(std::string_view qualified_name) {
  if (qualified_name.starts_with("pare::")) register_operators();
  const auto dot = qualified_name.find('.');
  const auto base = std::string(qualified_name.substr(0, dot));
  const auto overload = dot == std::string_view::npos ? std::string() : std::string(qualified_name.substr(dot + 1));
  auto handle = c10::Dispatcher::singleton().findSchema({base, overload});
  if (!handle) fail("pare.graph.101", "", "no operator {} in this process", qualified_name);
  return *handle;
}

}  // namespace

Op::Op(std::string_view qualified_name) : Op(look_up(qualified_name)) {}
Op::Op(c10::OperatorHandle handle) : handle_(handle), name_(intern(handle.operator_name())) {}

std::string_view Op::base() const noexcept { return std::string_view(*name_).substr(0, name_->find('.')); }

int Op::argument(std::string_view argument) const {
  const auto& arguments = schema().arguments();
  for (std::size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].name() == argument) return static_cast<int>(i);
  return -1;
}

// ---- Node

const Operand& Node::operand(std::string_view argument) const {
  const int position = op.argument(argument);
  if (position < 0) fail("pare.graph.102", name, "{} has no argument '{}'", op.name(), argument);
  return operand(static_cast<std::size_t>(position));
}

const Operand& Node::operand(std::size_t position) const {
  if (position >= operands.size()) fail("pare.graph.102", name, "{} has no operand {}", op.name(), position);
  return operands[position];
}

// ---- Graph

std::vector<NodeId> Graph::nodes(OpName name) const {
  std::vector<NodeId> found;
  for (const auto id : order_)
    if (name.matches(nodes_[index(id)].op)) found.push_back(id);
  return found;
}

bool Graph::contains(NodeId id) const noexcept { return index(id) < nodes_.size() && alive_[index(id)]; }

const Node& Graph::node(NodeId id) const {
  if (!contains(id)) fail("pare.graph.103", "", "node {} is not in this graph", index(id));
  return nodes_[index(id)];
}

const Value& Graph::value(ValueId id) const {
  if (index(id) >= values_.size()) fail("pare.graph.103", "", "value {} is not in this graph", index(id));
  return values_[index(id)];
}

const Node* Graph::producer(ValueId id) const {
  const auto node = value(id).producer;
  return node == kNoNode ? nullptr : &nodes_[index(node)];
}

const std::vector<Use>& Graph::uses(ValueId id) const {
  static std::mutex mutex;  // concurrent readers of a shared graph
  const std::lock_guard lock(mutex);
  if (!uses_.valid) {
    uses_.uses.assign(values_.size(), {});
    for (const auto node : order_)
      for (std::size_t i = 0; i < nodes_[index(node)].operands.size(); ++i)
        nodes_[index(node)].operands[i].each_value([&](ValueId value) {
          uses_.uses[index(value)].push_back({node, i});
        });
    for (std::size_t i = 0; i < outputs_.size(); ++i)
      if (outputs_[i] != kNoValue) uses_.uses[index(outputs_[i])].push_back({kNoNode, i});
    uses_.valid = true;
  }
  static const std::vector<Use> none;
  return index(id) < uses_.uses.size() ? uses_.uses[index(id)] : none;
}

ValueId Graph::weight(std::string_view path) const noexcept {
  for (const auto& value : values_)
    if (value.kind == ValueKind::Weight && value.name == path) return value.id;
  return kNoValue;
}

NodeId Graph::find(std::string_view name) const noexcept {
  for (const auto id : order_)
    if (nodes_[index(id)].name == name) return id;
  return kNoNode;
}

bool Graph::is_own_weight(ValueId id) const {
  return id != kNoValue && value(id).kind == ValueKind::Weight && uses(id).size() == 1;
}

// ---- GraphBuilder

std::uint32_t GraphBuilder::dim(std::string name, std::int64_t example, std::int64_t smallest) {
  graph_.dims_.push_back(std::move(name));
  graph_.example_dims_.push_back(example);
  graph_.smallest_dims_.push_back(smallest);
  return static_cast<std::uint32_t>(graph_.dims_.size() - 1);
}

ValueId GraphBuilder::input(std::string name, TensorType type) {
  const ValueId id{static_cast<std::uint32_t>(graph_.values_.size())};
  graph_.values_.push_back({id, ValueKind::Input, std::move(type), std::move(name), kNoNode,
                            static_cast<std::uint32_t>(graph_.inputs_.size())});
  graph_.inputs_.push_back(id);
  return id;
}

ValueId GraphBuilder::weight(std::string path, TensorType type) {
  const ValueId id{static_cast<std::uint32_t>(graph_.values_.size())};
  if (const auto [known, is_new] = weights_.try_emplace(path, id); !is_new) return known->second;
  graph_.values_.push_back({id, ValueKind::Weight, std::move(type), std::move(path), kNoNode, 0});
  return id;
}

NodeId GraphBuilder::node(Op op, std::vector<Operand> operands, std::vector<TensorType> types, std::string name,
                          std::string module) {
  const NodeId id{static_cast<std::uint32_t>(graph_.nodes_.size())};
  std::vector<ValueId> outputs;
  for (std::size_t i = 0; i < types.size(); ++i) {
    const ValueId value{static_cast<std::uint32_t>(graph_.values_.size())};
    graph_.values_.push_back({value, ValueKind::Result, std::move(types[i]), {}, id, static_cast<std::uint32_t>(i)});
    outputs.push_back(value);
  }
  graph_.nodes_.push_back({id,
                           op,
                           std::move(operands),
                           std::move(outputs),
                           std::move(name),
                           std::move(module),
                           Condition::Always,
                           false,
                           {}});
  graph_.alive_.push_back(true);
  graph_.order_.push_back(id);
  graph_.uses_.valid = false;
  return id;
}

Node& GraphBuilder::last() { return graph_.nodes_.back(); }

ValueId GraphBuilder::output_of(NodeId node, std::size_t position) const {
  return graph_.node(node).outputs.at(position);
}

void GraphBuilder::output(ValueId value) {
  graph_.outputs_.push_back(value);
  graph_.uses_.valid = false;
}

Graph GraphBuilder::finish() && {
  std::unordered_set<std::string> taken;
  std::map<std::string, int> next;
  for (const auto id : graph_.order_) {
    auto& node = graph_.nodes_[index(id)];
    if (node.name.empty()) {
      const auto base = node.op.base();
      node.name = (node.module.empty() ? "" : node.module + ".") + std::string(base.substr(base.rfind(':') + 1));
    }
    auto unique = node.name;
    while (!taken.insert(unique).second) unique = fmt::format("{}_{}", node.name, ++next[node.name]);
    node.name = unique;
  }
  return std::move(graph_);
}

Graph::Graph() = default;
Graph::Graph(const Graph& other) = default;
Graph::Graph(Graph&& other) noexcept = default;
Graph& Graph::operator=(const Graph& other) = default;
Graph& Graph::operator=(Graph&& other) noexcept = default;
Graph::~Graph() = default;

PARE_NAMESPACE_END
