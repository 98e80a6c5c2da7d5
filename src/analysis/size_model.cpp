#include "pare/analysis/size_model.hpp"

#include <algorithm>
#include <set>

#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Axes = std::vector<std::pair<ValueId, std::int64_t>>;

constexpr std::size_t kFixed = static_cast<std::size_t>(-1);

Axes axes_of(const Graph& graph, ValueId value, std::int64_t first = 0, std::int64_t skip_last = 0) {
  Axes axes;
  const auto rank = static_cast<std::int64_t>(graph.value(value).type.rank());
  for (auto axis = first; axis < rank - skip_last; ++axis) axes.emplace_back(value, axis);
  return axes;
}

Axes joined(Axes a, const Axes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

SizeModel::SizeModel(const Model& model, const ChannelGroups& groups)
    : dims_(model.graph().example_dims()), graph_(&model.graph()) {
  if (!dims_.empty()) dims_.front() = 1;
  const auto& graph = model.graph();
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (node.condition != Condition::Training && !node.outputs.empty()) add_node(model, groups, node);
  }
  std::set<std::string> seen;
  for (std::size_t i = 0; i < graph.value_count(); ++i) {
    const auto& value = graph.value(ValueId{static_cast<std::uint32_t>(i)});
    const auto weight = model.weights().find(value.name);
    if (value.kind != ValueKind::Weight || weight == model.weights().end() || !seen.insert(value.name).second) continue;
    const auto axes = axes_of(graph, value.id);
    if (weight->second.is_parameter) add(groups, axes, 1.0, Quantity::Parameters, true);
    add(groups, axes, static_cast<double>(weight->second.tensor.element_size()), Quantity::Bytes, true);
  }
  graph_ = nullptr;
}

std::size_t SizeModel::factor(const ChannelGroups& groups, ValueId value, std::int64_t axis, bool of_weight) {
  const auto key = (static_cast<std::uint64_t>(index(value)) << 8U) | static_cast<std::uint64_t>(axis);
  if (const auto found = known_.find(key); found != known_.end()) {
    if (found->second != kFixed) factors_[found->second].of_weight = factors_[found->second].of_weight || of_weight;
    return found->second;
  }
  const auto units = groups.units_along(value, axis);
  const bool free = std::ranges::any_of(units, [](auto unit) { return unit >= 0; });
  const auto position = free ? factors_.size() : kFixed;
  known_.emplace(key, position);
  if (!free) return kFixed;
  factors_.push_back({static_cast<std::int64_t>(units.size()), of_weight, {}});
  std::unordered_map<std::int64_t, std::int64_t> entries;
  for (const auto unit : units)
    if (unit >= 0) ++entries[unit];
  for (const auto& [unit, count] : entries) (*shares_)[unit].push_back({position, count});
  return position;
}

void SizeModel::add(const ChannelGroups& groups, const Axes& axes, double constant, Quantity quantity, bool of_weight) {
  Term term{constant, quantity, {}};
  for (const auto& [value, axis] : axes) {
    const auto position = factor(groups, value, axis, of_weight);
    if (position == kFixed) {
      term.constant *=
          static_cast<double>(graph_->value(value).type.sizes[static_cast<std::size_t>(axis)].evaluate(dims_));
    } else {
      // The count was taken at the sizes of capture; a batch folded into the axis is part of it.
      const auto now = graph_->value(value).type.sizes[static_cast<std::size_t>(axis)].evaluate(dims_);
      term.constant *= static_cast<double>(now) / static_cast<double>(factors_[position].count);
      term.factors.push_back(position);
    }
  }
  for (const auto position : std::set(term.factors.begin(), term.factors.end()))
    factors_[position].terms.push_back(terms_.size());
  terms_.push_back(std::move(term));
}

void SizeModel::add_node(const Model& model, const ChannelGroups& groups, const Node& node) {
  const auto& graph = model.graph();
  const auto macs = [&](const Axes& axes) { add(groups, axes, 1.0, Quantity::Macs, false); };
  switch (family_of(graph, node.id)) {
    case OpFamily::Convolution:
      return macs(joined(axes_of(graph, node.output()), axes_of(graph, node.input(1), 1)));
    case OpFamily::TransposedConvolution:
      return macs(joined(axes_of(graph, node.input(0)), axes_of(graph, node.input(1), 1)));
    case OpFamily::Linear:
    case OpFamily::MatrixMultiply: {
      const auto left = node.input(node.is("aten::addmm") || node.is("aten::baddbmm") ? 1 : 0);
      const auto rank = static_cast<std::int64_t>(graph.value(left).type.rank());
      return macs(joined(axes_of(graph, node.output()), axes_of(graph, left, rank - 1)));
    }
    case OpFamily::Attention: {
      const auto query = node.input(0), key = node.input(1), value = node.input(2);
      const auto rank = static_cast<std::int64_t>(graph.value(key).type.rank());
      const auto scores = joined(axes_of(graph, query, 0, 1), {{key, rank - 2}});
      macs(joined(scores, {{query, rank - 1}}));
      return macs(joined(scores, {{value, rank - 1}}));
    }
    case OpFamily::Recurrent:
      if (const auto* params = node.operand("params").get<Operand::Values>())
        for (const auto param : *params)
          if (graph.value(param).type.rank() == 2)
            macs(joined(axes_of(graph, param), axes_of(graph, node.input(0), 0, 1)));
      return;
    default:
      return;
  }
}

double SizeModel::value(const Term& term) const {
  auto product = term.constant;
  for (const auto position : term.factors) product *= static_cast<double>(factors_[position].count);
  return product;
}

double SizeModel::total(Quantity quantity) const {
  double sum = 0;
  for (const auto& term : terms_)
    if (term.quantity == quantity) sum += value(term);
  return sum;
}

void SizeModel::change(const std::vector<std::int64_t>& units, std::int64_t sign) {
  for (const auto unit : units)
    if (const auto found = shares_->find(unit); found != shares_->end())
      for (const auto& share : found->second) factors_[share.factor].count += sign * share.entries;
}

double SizeModel::gain(const std::vector<std::int64_t>& units, Quantity quantity) {
  std::set<std::size_t> concerned;
  for (const auto unit : units)
    if (const auto found = shares_->find(unit); found != shares_->end())
      for (const auto& share : found->second)
        for (const auto term : factors_[share.factor].terms)
          if (terms_[term].quantity == quantity) concerned.insert(term);
  double before = 0, after = 0;
  for (const auto term : concerned) before += value(terms_[term]);
  remove(units);
  for (const auto term : concerned) after += value(terms_[term]);
  restore(units);
  return before - after;
}

std::int64_t SizeModel::least_left(std::int64_t unit) const {
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  if (const auto found = shares_->find(unit); found != shares_->end())
    for (const auto& share : found->second)
      if (factors_[share.factor].of_weight) least = std::min(least, factors_[share.factor].count - share.entries);
  return least;
}

PARE_NAMESPACE_END
