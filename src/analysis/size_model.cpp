#include "pare/analysis/size_model.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <unordered_map>

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

// What removals leave as it is.
struct SizeModel::Structure {
  /// Axes that can shrink, by the same units.
  struct Factor {
    bool of_weight = false;
    std::vector<std::size_t> terms;
  };
  /// A constant times the counts along some axes.
  struct Term {
    double constant = 0;
    Quantity quantity = Quantity::Macs;
    std::vector<std::size_t> factors;
  };
  /// How many entries of an axis a unit takes up.
  struct Share {
    std::size_t factor;
    std::int64_t entries;
  };

  std::vector<Factor> factors;
  std::vector<Term> terms;
  std::vector<std::size_t> first;  // of each unit's shares
  std::vector<Share> shares;       // by unit

  [[nodiscard]] std::span<const Share> of(std::int64_t unit) const {
    const auto u = static_cast<std::size_t>(unit);
    if (unit < 0 || u + 1 >= first.size()) return {};
    return std::span(shares).subspan(first[u], first[u + 1] - first[u]);
  }
};

class SizeModel::Builder {
 public:
  Builder(const Model& model, const ChannelGroups& groups)
      : model_(model), graph_(model.graph()), groups_(groups), dims_(graph_.example_dims()) {
    if (!dims_.empty()) dims_.front() = 1;
  }

  void build(SizeModel& target) {
    for (const auto id : graph_.nodes()) {
      const auto& node = graph_.node(id);
      if (node.condition != Condition::Training && !node.outputs.empty()) add_node(node);
    }
    for (const auto& [path, weight] : model_.weights()) {
      const auto value = graph_.weight(path);
      if (value == kNoValue) continue;
      const auto axes = axes_of(graph_, value);
      if (weight.is_parameter) add(axes, 1.0, Quantity::Parameters, true);
      add(axes, static_cast<double>(weight.tensor.element_size()), Quantity::Bytes, true);
    }
    sort_shares();
    target.structure_ = std::make_shared<const Structure>(std::move(structure_));
    target.counts_ = std::move(counts_);
  }

 private:
  struct Found {
    std::int64_t unit;
    Structure::Share share;
  };

  // The axis as a factor, or kFixed where nothing along it can go.
  std::size_t factor(ValueId value, std::int64_t axis, bool of_weight) {
    const auto key = (static_cast<std::uint64_t>(index(value)) << 8U) | static_cast<std::uint64_t>(axis);
    if (const auto found = known_.find(key); found != known_.end()) {
      if (found->second != kFixed && of_weight) structure_.factors[found->second].of_weight = true;
      return found->second;
    }
    const auto position = factor_of(groups_.units_along(value, axis));
    known_.emplace(key, position);
    if (position != kFixed && of_weight) structure_.factors[position].of_weight = true;
    return position;
  }

  // Axes along which the same units lie (a layer's outputs, its norm, what reads them) shrink together: one factor.
  std::size_t factor_of(std::vector<std::int64_t> units) {
    if (!std::ranges::is_sorted(units)) std::ranges::sort(units);
    if (units.empty() || units.back() < 0) return kFixed;
    const auto [known, is_new] = by_units_.try_emplace(std::move(units), counts_.size());
    const auto position = known->second;
    if (!is_new) return position;
    const auto& all = known->first;
    structure_.factors.emplace_back();
    counts_.push_back(static_cast<std::int64_t>(all.size()));
    for (auto unit = std::ranges::lower_bound(all, 0); unit != all.end();) {
      const auto next = std::find_if(unit, all.end(), [&](auto other) { return other != *unit; });
      found_.push_back({*unit, {position, next - unit}});
      unit = next;
    }
    return position;
  }

  void add(const Axes& axes, double constant, Quantity quantity, bool of_weight) {
    Structure::Term term{constant, quantity, {}};
    for (const auto& [value, axis] : axes) {
      const auto position = factor(value, axis, of_weight);
      // The count was taken at the sizes of capture; a batch folded into the axis is part of it.
      const auto now = graph_.value(value).type.sizes[static_cast<std::size_t>(axis)].evaluate(dims_);
      term.constant *= static_cast<double>(now);
      if (position == kFixed) continue;
      term.constant /= static_cast<double>(counts_[position]);
      term.factors.push_back(position);
    }
    for (const auto position : term.factors) {
      auto& terms = structure_.factors[position].terms;
      if (terms.empty() || terms.back() != structure_.terms.size()) terms.push_back(structure_.terms.size());
    }
    structure_.terms.push_back(std::move(term));
  }

  // Units are small numbers: counted into place.
  void sort_shares() {
    std::int64_t last = -1;
    for (const auto& found : found_) last = std::max(last, found.unit);
    auto& first = structure_.first;
    first.assign(static_cast<std::size_t>(last) + 2, 0);
    for (const auto& found : found_) ++first[static_cast<std::size_t>(found.unit) + 1];
    for (std::size_t u = 1; u < first.size(); ++u) first[u] += first[u - 1];
    structure_.shares.resize(found_.size());
    auto place = first;
    for (const auto& found : found_) structure_.shares[place[static_cast<std::size_t>(found.unit)]++] = found.share;
  }

  void add_node(const Node& node) {
    const auto& graph = graph_;
    const auto macs = [&](const Axes& axes) { add(axes, 1.0, Quantity::Macs, false); };
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

  const Model& model_;
  const Graph& graph_;
  const ChannelGroups& groups_;
  std::vector<std::int64_t> dims_;
  Structure structure_;
  std::vector<std::int64_t> counts_;
  std::vector<Found> found_;
  std::unordered_map<std::uint64_t, std::size_t> known_;       // factor of (value, axis)
  std::map<std::vector<std::int64_t>, std::size_t> by_units_;  // factor of the axes with these units
};

SizeModel::SizeModel(const Model& model, const ChannelGroups& groups) { Builder(model, groups).build(*this); }

double SizeModel::value(std::size_t term) const {
  auto product = structure_->terms[term].constant;
  for (const auto position : structure_->terms[term].factors) product *= static_cast<double>(counts_[position]);
  return product;
}

double SizeModel::total(Quantity quantity) const {
  double sum = 0;
  for (std::size_t term = 0; term < structure_->terms.size(); ++term)
    if (structure_->terms[term].quantity == quantity) sum += value(term);
  return sum;
}

void SizeModel::change(std::span<const std::int64_t> units, std::int64_t sign) {
  for (const auto unit : units)
    for (const auto& share : structure_->of(unit)) counts_[share.factor] += sign * share.entries;
}

double SizeModel::gain(std::span<const std::int64_t> units, Quantity quantity) {
  std::vector<std::size_t> concerned;
  for (const auto unit : units)
    for (const auto& share : structure_->of(unit))
      for (const auto term : structure_->factors[share.factor].terms)
        if (structure_->terms[term].quantity == quantity) concerned.push_back(term);
  std::ranges::sort(concerned);
  concerned.erase(std::ranges::unique(concerned).begin(), concerned.end());
  double before = 0, after = 0;
  for (const auto term : concerned) before += value(term);
  remove(units);
  for (const auto term : concerned) after += value(term);
  restore(units);
  return before - after;
}

std::int64_t SizeModel::least_left(std::int64_t unit) const {
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (const auto& share : structure_->of(unit))
    if (structure_->factors[share.factor].of_weight) least = std::min(least, counts_[share.factor] - share.entries);
  return least;
}

PARE_NAMESPACE_END
