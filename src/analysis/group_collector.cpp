#include "group_collector.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <span>

#include "pare/graph/fusion.hpp"
#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Side = std::set<std::pair<std::size_t, std::int64_t>>;  // (value of the weight, axis)

struct Sides {
  Side outputs, inputs, scales;
};

// Whether a transpose lies between the table and the op.
bool is_swapped(const Graph& graph, const std::vector<NodeId>& path) {
  return std::ranges::count_if(path,
                               [&](NodeId id) {
                                 const auto& node = graph.node(id);
                                 return node.is("aten::t") || node.is("aten::numpy_T") || node.is("aten::transpose");
                               }) %
             2 ==
         1;
}

Sides sides_of(const Graph& graph) {
  Sides sides;
  const auto add = [&](ValueId operand, std::int64_t output_axis, std::int64_t input_axis) {
    std::vector<NodeId> path;
    const auto weight = table_weight(graph, operand, &path);
    if (weight == kNoValue) return;
    if (is_swapped(graph, path)) std::swap(output_axis, input_axis);
    sides.outputs.insert({index(weight), output_axis});
    if (input_axis >= 0) sides.inputs.insert({index(weight), input_axis});
  };
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    switch (family_of(graph, id)) {
      case OpFamily::Convolution:
        add(node.input(1), 0, 1);
        break;
      case OpFamily::TransposedConvolution:
        add(node.input(1), 1, 0);
        break;
      case OpFamily::Linear:
        if (node.is("aten::linear")) {
          add(node.input(1), 0, 1);
        } else {
          add(node.input(node.is("aten::addmm") ? 2 : 1), 1, 0);
        }
        break;
      case OpFamily::Embedding:
        add(node.input(0), 1, -1);
        break;
      case OpFamily::Normalization:
        if (node.is("aten::batch_norm") && node.input(1) != kNoValue) sides.scales.insert({index(node.input(1)), 0});
        break;
      case OpFamily::Recurrent:
        if (const auto* params = node.operand("params").get<Operand::Values>())
          for (const auto param : *params)
            if (graph.value(param).type.rank() == 2) add(param, 0, 1);
        break;
      default:
        break;
    }
  }
  return sides;
}

// Small, since there are hundreds of thousands.
struct Entry {
  std::int32_t unit;
  std::uint32_t axis;
  std::int32_t position;
};

// Every entry of every weight's axis under the class it belongs to, by class, axis and position: counted into place,
// since they are met in the order of the last two.
std::vector<Entry> entries_of(const Tagger& tagger) {
  const auto& tags = tagger.tags();
  const auto& graph = tagger.model().graph();
  std::vector<Entry> met;
  std::vector<std::size_t> place(static_cast<std::size_t>(tags.size()) + 1, 0);
  met.reserve(static_cast<std::size_t>(tags.size()));
  for (std::size_t a = 0; a < tags.axes().size(); ++a) {
    const auto& axis = tags.axes()[a];
    if (graph.value(axis.source).kind != ValueKind::Weight) continue;
    for (std::int64_t i = 0; i < axis.count; ++i) {
      met.push_back({static_cast<std::int32_t>(tags.find(axis.first + i)), static_cast<std::uint32_t>(a),
                     static_cast<std::int32_t>(i)});
      ++place[static_cast<std::size_t>(met.back().unit) + 1];
    }
  }
  for (std::size_t i = 1; i < place.size(); ++i) place[i] += place[i - 1];
  std::vector<Entry> entries(met.size());
  for (const auto& entry : met) entries[place[static_cast<std::size_t>(entry.unit)]++] = entry;
  return entries;
}

class Builder {
 public:
  explicit Builder(const Tagger& tagger) : tagger_(tagger), sides_(sides_of(tagger.model().graph())) {}

  void add(std::span<const Entry> unit) {
    const auto* reason = tagger_.tags().frozen(unit.front().unit);
    if (reason && reason->hidden) return;
    if (last_.empty() || reason != last_reason_ || !std::ranges::equal(unit, last_, {}, &Entry::axis, &Entry::axis))
      group_ = group_of(unit, reason);  // neighbours mostly belong to one group
    last_ = unit;
    last_reason_ = reason;
    auto& group = groups_[group_];
    group.units.push_back(unit.front().unit);
    std::size_t slice = 0;
    for (std::size_t i = 0; i < unit.size(); ++i) {
      if (i > 0 && unit[i].axis != unit[i - 1].axis) ++slice;
      group.slices[slice].indices.push_back(unit[i].position);
    }
  }

  std::vector<ChannelGroup> finish() {
    std::erase_if(groups_, [](const ChannelGroup& group) {
      // Rows of a position table, entries of a mask: no layer computes or reads them as channels.
      return std::ranges::none_of(group.slices, [](const auto& slice) { return slice.produces || slice.consumes; });
    });
    std::map<std::string, int> taken;
    for (auto& group : groups_) {
      std::ranges::stable_sort(group.slices, [](const auto& a, const auto& b) {
        return std::tuple(!a.produces, !a.is_parameter) < std::tuple(!b.produces, !b.is_parameter);
      });
      group.name = fmt::format("{}:{}", group.slices.front().path, group.slices.front().dim);
      if (const auto number = taken[group.name]++; number > 0) group.name += fmt::format("#{}", number);
      if (!group.is_frozen() && group.size() == 1) group.frozen = "it has a single unit";
    }
    return std::move(groups_);
  }

 private:
  // The group of those that are frozen for the same reason and take up as many entries of the same axes.
  std::size_t group_of(std::span<const Entry> unit, const TagTable::Reason* reason) {
    std::string key = reason ? reason->text : std::string();
    for (const auto& entry : unit) key.append(reinterpret_cast<const char*>(&entry.axis), sizeof entry.axis);
    const auto [known, is_new] = by_key_.try_emplace(std::move(key), groups_.size());
    if (is_new) open(unit, reason);
    return known->second;
  }

  void open(std::span<const Entry> unit, const TagTable::Reason* reason) {
    const auto& model = tagger_.model();
    ChannelGroup group;
    if (reason) group.frozen = reason->text;
    for (std::size_t i = 0; i < unit.size(); ++i) {
      if (i > 0 && unit[i].axis == unit[i - 1].axis) {
        ++group.slices.back().entries;
        continue;
      }
      const auto& axis = tagger_.tags().axes()[unit[i].axis];
      const auto& path = model.graph().value(axis.source).name;
      const auto weight = model.weights().find(path);
      const auto key = std::pair(index(axis.source), axis.dim);
      group.slices.push_back({path,
                              axis.dim,
                              axis.count,
                              weight != model.weights().end() && weight->second.is_parameter,
                              sides_.outputs.contains(key),
                              sides_.inputs.contains(key),
                              sides_.scales.contains(key),
                              1,
                              {}});
      group.slices.back().indices.reserve(static_cast<std::size_t>(axis.count));
    }
    groups_.push_back(std::move(group));
  }

  const Tagger& tagger_;
  Sides sides_;
  std::map<std::string, std::size_t> by_key_;
  std::span<const Entry> last_;
  const TagTable::Reason* last_reason_ = nullptr;
  std::size_t group_ = 0;  // of the last unit
  std::vector<ChannelGroup> groups_;
};

}  // namespace

std::vector<ChannelGroup> collect_groups(const Tagger& tagger) {
  const auto entries = entries_of(tagger);
  Builder builder(tagger);
  for (std::size_t begin = 0; begin < entries.size();) {
    auto end = begin;
    while (end < entries.size() && entries[end].unit == entries[begin].unit) ++end;
    builder.add(std::span(entries).subspan(begin, end - begin));
    begin = end;
  }
  return builder.finish();
}

PARE_NAMESPACE_END
