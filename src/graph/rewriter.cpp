#include "pare/graph/rewriter.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "graph/schema.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Kept = std::vector<std::int64_t>;

// `Bytes` of each kept entry, one behind the other: of a known number, since a call for four bytes costs more than they
// do.
template <std::size_t Bytes>
void copy_entries(const std::byte* row, const Kept& kept, std::byte* to) {
  for (const auto entry : kept) {
    std::memcpy(to, row + static_cast<std::size_t>(entry) * Bytes, Bytes);
    to += Bytes;
  }
}

void copy_entries(const std::byte* row, const Kept& kept, std::size_t bytes, std::byte* to) {
  if (bytes == 4) return copy_entries<4>(row, kept, to);          // pointwise layers
  if (bytes == 9 * 4) return copy_entries<9 * 4>(row, kept, to);  // 3x3 kernels
  for (const auto entry : kept) {
    std::memcpy(to, row + static_cast<std::size_t>(entry) * bytes, bytes);
    to += bytes;
  }
}

// `index_select` along the first axis and the second at once (null: all of it). One after the other a whole tensor
// would lie between, and along the second axis one thread would do it.
at::Tensor selected(const at::Tensor& tensor, const Kept* rows, const Kept* columns) {
  auto sizes = tensor.sizes().vec();
  const auto row_bytes = tensor.nbytes() / static_cast<std::size_t>(sizes[0]);
  const auto entry_bytes = columns ? row_bytes / static_cast<std::size_t>(sizes[1]) : row_bytes;
  if (rows) sizes[0] = std::ssize(*rows);
  if (columns) sizes[1] = std::ssize(*columns);
  auto result = at::empty(sizes, tensor.options());
  const auto* from = static_cast<const std::byte*>(tensor.const_data_ptr());
  auto* to = static_cast<std::byte*>(result.mutable_data_ptr());
  const auto kept_bytes = result.nbytes() / static_cast<std::size_t>(sizes[0]);
  constexpr std::size_t kPiece = 1 << 17;  // bytes that are worth another thread
  const auto grain = static_cast<std::int64_t>(std::max<std::size_t>(1, kPiece / kept_bytes));
  at::parallel_for(0, sizes[0], grain, [&](std::int64_t first, std::int64_t last) {
    for (auto row = first; row < last; ++row) {
      const auto* source =
          from + static_cast<std::size_t>(rows ? (*rows)[static_cast<std::size_t>(row)] : row) * row_bytes;
      auto* target = to + static_cast<std::size_t>(row) * kept_bytes;
      if (columns) {
        copy_entries(source, *columns, entry_bytes, target);
      } else {
        std::memcpy(target, source, row_bytes);
      }
    }
  });
  return result;
}

// Where rows and columns lie in memory as they are numbered.
bool is_dense(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.layout() == at::kStrided && tensor.is_contiguous() && tensor.numel() > 0;
}

}  // namespace

std::vector<Operand> complete(const Op& op, std::vector<Operand> operands, std::string_view where) {
  const auto& arguments = op.schema().arguments();
  if (operands.size() > arguments.size())
    fail("pare.graph.111", where, "{} takes {} operands, got {}", op.name(), arguments.size(), operands.size());
  for (std::size_t i = operands.size(); i < arguments.size(); ++i) {
    const auto& fallback = arguments[i].default_value();
    if (!fallback) fail("pare.graph.111", where, "{} needs its argument '{}'", op.name(), arguments[i].name());
    operands.push_back(*fallback);
  }
  return operands;
}

Graph& Rewriter::edit() {
  auto& graph = model_->graph_;
  if (!graph) graph = std::make_shared<Graph>();
  if (graph.use_count() > 1) graph = std::make_shared<Graph>(*graph);
  model_->interpreter_ = {};
  graph->uses_.valid = false;
  return *graph;
}

NodeId Rewriter::insert_at(std::size_t position, std::string_view op_name, std::vector<Operand> operands,
                           std::vector<TensorType> types, std::string name, std::string module) {
  const Op op(op_name);
  operands = complete(op, std::move(operands), name);
  auto& graph = edit();
  if (types.empty()) {
    TensorType type;
    for (const auto& operand : operands) {
      if (operand.value() == kNoValue) continue;
      type = graph.value(operand.value()).type;
      break;
    }
    types.push_back(std::move(type));
  }
  if (name.empty()) {
    const auto base = op.base().substr(op.base().rfind(':') + 1);
    name = module.empty() ? std::string(base) : fmt::format("{}.{}", module, base);
  }
  auto unique = name;
  for (int i = 1; graph.find(unique) != kNoNode; ++i) unique = fmt::format("{}_{}", name, i);

  const NodeId id{static_cast<std::uint32_t>(graph.nodes_.size())};
  std::vector<ValueId> outputs;
  for (auto& type : types) {
    const ValueId value{static_cast<std::uint32_t>(graph.values_.size())};
    graph.values_.push_back(
        {value, ValueKind::Result, std::move(type), {}, id, static_cast<std::uint32_t>(outputs.size())});
    outputs.push_back(value);
  }
  graph.nodes_.push_back({id,
                          op,
                          std::move(operands),
                          std::move(outputs),
                          std::move(unique),
                          std::move(module),
                          Condition::Always,
                          false,
                          {}});
  graph.alive_.push_back(true);
  graph.order_.insert(graph.order_.begin() + static_cast<std::ptrdiff_t>(position), id);
  return id;
}

namespace {

std::size_t position_of(const Graph& graph, NodeId id) {
  const auto& order = graph.nodes();
  const auto found = std::find(order.begin(), order.end(), id);
  if (found == order.end()) fail("pare.graph.103", "", "node {} is not in this graph", index(id));
  return static_cast<std::size_t>(found - order.begin());
}

}  // namespace

NodeId Rewriter::insert_before(NodeId anchor, std::string_view op, std::vector<Operand> operands,
                               std::vector<TensorType> types, std::string name) {
  return insert_at(position_of(graph(), anchor), op, std::move(operands), std::move(types), std::move(name),
                   graph().node(anchor).module);
}

NodeId Rewriter::insert_after(NodeId anchor, std::string_view op, std::vector<Operand> operands,
                              std::vector<TensorType> types, std::string name) {
  return insert_at(position_of(graph(), anchor) + 1, op, std::move(operands), std::move(types), std::move(name),
                   graph().node(anchor).module);
}

NodeId Rewriter::insert_front(std::string_view op, std::vector<Operand> operands, std::vector<TensorType> types,
                              std::string name) {
  return insert_at(0, op, std::move(operands), std::move(types), std::move(name), {});
}

void Rewriter::replace(NodeId node, std::string_view op_name, std::vector<Operand> operands) {
  const Op op(op_name);
  const auto name = graph().node(node).name;
  operands = complete(op, operands.empty() ? graph().node(node).operands : std::move(operands), name);
  auto& edited = edit().nodes_[index(node)];
  edited.op = op;
  edited.operands = std::move(operands);
}

void Rewriter::set_operand(NodeId node, std::size_t position, Operand operand) {
  static_cast<void>(graph().node(node).operand(position));  // checks both
  edit().nodes_[index(node)].operands[position] = std::move(operand);
}

void Rewriter::set_operand(NodeId node, std::string_view argument, Operand operand) {
  const auto& target = graph().node(node);
  const int position = target.op.argument(argument);
  if (position < 0) fail("pare.graph.102", target.name, "{} has no argument '{}'", target.op.name(), argument);
  set_operand(node, static_cast<std::size_t>(position), std::move(operand));
}

void Rewriter::replace_uses(ValueId from, ValueId to, const std::vector<NodeId>& keep) {
  const auto uses = graph().uses(from);
  auto& graph = edit();
  for (const auto& use : uses) {
    if (use.node == kNoNode) {
      graph.outputs_[use.operand] = to;
    } else if (std::find(keep.begin(), keep.end(), use.node) == keep.end()) {
      graph.nodes_[index(use.node)].operands[use.operand].each_value([&](ValueId& value) {
        if (value == from) value = to;
      });
    }
  }
}

void Rewriter::replace_use(Use use, ValueId from, ValueId to) {
  if (use.node == kNoNode) {
    if (use.operand >= graph().outputs().size())
      fail("pare.graph.102", "", "the graph has no output number {}", use.operand);
    edit().outputs_[use.operand] = to;
    return;
  }
  auto operand = graph().node(use.node).operand(use.operand);
  operand.each_value([&](ValueId& value) {
    if (value == from) value = to;
  });
  set_operand(use.node, use.operand, std::move(operand));
}

void Rewriter::erase(NodeId node) {
  const auto& doomed = graph().node(node);
  for (const auto output : doomed.outputs)
    if (!graph().uses(output).empty()) fail("pare.graph.112", doomed.name, "its results are still used");
  auto& graph = edit();
  graph.alive_[index(node)] = false;
  std::erase(graph.order_, node);
}

std::size_t Rewriter::eliminate_dead() {
  std::vector<NodeId> dead;
  std::vector<bool> live(graph().value_count(), false);
  for (const auto output : graph().outputs())
    if (output != kNoValue) live[index(output)] = true;
  const auto& order = graph().nodes();
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    const auto& node = graph().node(*it);
    const bool needed = node.barrier || std::any_of(node.outputs.begin(), node.outputs.end(),
                                                    [&](ValueId value) { return live[index(value)]; });
    if (!needed) {
      dead.push_back(*it);
      continue;
    }
    for (const auto& operand : node.operands) operand.each_value([&](ValueId value) { live[index(value)] = true; });
  }
  std::erase_if(model_->weights_, [&](const auto& entry) {
    const auto value = graph().weight(entry.first);
    return value == kNoValue || !live[index(value)];
  });
  if (dead.empty()) return 0;
  auto& graph = edit();
  for (const auto node : dead) graph.alive_[index(node)] = false;
  std::erase_if(graph.order_, [&](NodeId node) { return !graph.alive_[index(node)]; });
  return dead.size();
}

ValueId Rewriter::add_weight(std::string path, at::Tensor tensor, bool is_parameter) {
  if (model_->weights_.contains(path)) fail("pare.graph.113", path, "the weight table already has this path");
  TensorType type{tensor.scalar_type(), {}};
  for (const auto size : tensor.sizes()) type.sizes.emplace_back(size);
  auto& graph = edit();
  auto id = graph.weight(path);
  if (id == kNoValue) {
    id = ValueId{static_cast<std::uint32_t>(graph.values_.size())};
    graph.values_.push_back({id, ValueKind::Weight, std::move(type), path, kNoNode, 0});
  } else {
    graph.values_[index(id)].type = std::move(type);
  }
  model_->weights_.emplace(std::move(path), Weight{std::move(tensor), is_parameter, {}});
  return id;
}

void Rewriter::set_weight(std::string_view path, at::Tensor tensor) {
  TensorType type{tensor.scalar_type(), {}};
  for (const auto size : tensor.sizes()) type.sizes.emplace_back(size);
  model_->set_weight(path, std::move(tensor));
  const auto value = graph().weight(path);
  if (value != kNoValue) edit().values_[index(value)].type = std::move(type);
}

void Rewriter::narrow(std::string_view path, std::int64_t dim, std::vector<std::int64_t> kept) {
  narrow(path, {{dim, std::move(kept)}});
}

void Rewriter::narrow(std::string_view path, std::vector<Narrowing> cuts) {
  const auto tensor = model_->weight(path).detach();
  auto sizes = tensor.sizes().vec();
  for (auto& [dim, kept] : cuts) {
    if (dim < 0) dim += tensor.dim();
    if (dim < 0 || dim >= tensor.dim())
      fail("pare.graph.114", path, "a tensor of {} axes has no axis {}", tensor.dim(), dim);
    if (kept.empty()) fail("pare.graph.114", path, "nothing of axis {} would be kept", dim);
    auto& size = sizes[static_cast<std::size_t>(dim)];
    for (const auto entry : kept)
      if (entry < 0 || entry >= size)
        fail("pare.graph.114", path, "axis {} has {} entries, and {} is to be kept", dim, size, entry);
    size = std::ssize(kept);
  }
  const at::NoGradGuard no_grad;
  auto left = tensor;
  for (std::size_t i = 0; i < cuts.size(); ++i) {
    const auto& [dim, kept] = cuts[i];
    if (dim > 1 || !is_dense(left)) {
      left = left.index_select(dim, at::tensor(kept, at::TensorOptions().dtype(at::kLong).device(left.device())));
    } else if (dim == 1) {
      left = selected(left, nullptr, &kept);
    } else {
      const bool both = i + 1 < cuts.size() && cuts[i + 1].dim == 1;
      left = selected(left, &kept, both ? &cuts[++i].kept : nullptr);
    }
  }
  set_weight(path, std::move(left));
  auto entry = model_->weights_.find(path);
  if (entry == model_->weights_.end())
    entry = std::ranges::find_if(model_->weights_, [&](const auto& item) {
      return std::ranges::find(item.second.aliases, path) != item.second.aliases.end();
    });
  for (auto& cut : cuts) entry->second.narrowings.push_back(std::move(cut));
}

void Rewriter::set_type(ValueId value, TensorType type) {
  static_cast<void>(graph().value(value));
  edit().values_[index(value)].type = std::move(type);
}

void Rewriter::limit_dim(std::size_t dim, std::int64_t smallest) {
  if (dim >= graph().dims().size()) fail("pare.graph.103", "", "the graph has no dim number {}", dim);
  edit().smallest_dims_[dim] = smallest;
}

void Rewriter::rename(NodeId node, std::string name) {
  static_cast<void>(graph().node(node));
  edit().nodes_[index(node)].name = std::move(name);
}

PARE_NAMESPACE_END
