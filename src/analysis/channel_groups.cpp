#include "pare/analysis/channel_groups.hpp"

#include <algorithm>
#include <map>
#include <ostream>
#include <set>

#include "group_collector.hpp"
#include "pare/core/error.hpp"
#include "probed_units.hpp"
#include "removal_planner.hpp"

PARE_NAMESPACE_BEGIN

bool ChannelGroup::Slice::is_whole() const {
  if (static_cast<std::int64_t>(indices.size()) != count || entries != 1) return false;
  for (std::size_t i = 0; i < indices.size(); ++i)
    if (indices[i] != static_cast<std::int64_t>(i)) return false;
  return true;
}

std::string ChannelGroup::text() const {
  auto text =
      fmt::format("{}, {} unit{}{}{}\n", name, size(), size() == 1 ? "" : "s", is_frozen() ? ", frozen: " : "", frozen);
  std::size_t width = 0;
  for (const auto& slice : slices) width = std::max(width, slice.path.size());
  for (const auto& slice : slices)
    text +=
        fmt::format("  {:<{}} axis {}, {} of {} a unit{}{}\n", slice.path, width, slice.dim, slice.entries, slice.count,
                    slice.produces   ? ", output"
                    : slice.consumes ? ", input"
                                     : "",
                    slice.is_parameter ? "" : ", buffer");
  for (const auto& constant : constants) text += fmt::format("  {}\n", constant);
  return text;
}

std::ostream& operator<<(std::ostream& stream, const ChannelGroup& group) { return stream << group.text(); }

namespace {

bool is_probed(std::size_t unit) { return (unit * 2654435761U >> 7U) % 2 == 1; }

std::string describe(const Graph& graph, const Node& node, std::size_t position) {
  const auto name = node.op.schema().arguments()[position].name();
  std::string value;
  if (const auto* sizes = node.operands[position].get<Operand::Ints>()) {
    for (const auto& size : *sizes) value += (value.empty() ? "[" : ", ") + size.text(graph.dims());
    value += "]";
  } else if (const auto number = node.operands[position].number()) {
    value = fmt::format("{}", *number);
  } else {
    value = "none";
  }
  return fmt::format("{} ({}): {} = {}", node.name, node.op.name(), name, value);
}

}  // namespace

std::vector<std::int64_t> probed_units(const ChannelGroup& group) {
  std::vector<std::int64_t> units;
  if (group.size() < 2) return units;
  for (std::size_t u = 0; u < group.size(); ++u)
    if (is_probed(u)) units.push_back(group.units[u]);
  if (units.empty()) units.push_back(group.units.back());
  return units;
}

ChannelGroups::ChannelGroups(const Model& model) : tagger_(std::make_unique<Tagger>(model)) {
  tagger_->run();
  collect();
}

ChannelGroups::~ChannelGroups() = default;
ChannelGroups::ChannelGroups(ChannelGroups&&) noexcept = default;
ChannelGroups& ChannelGroups::operator=(ChannelGroups&&) noexcept = default;

// Removes half of everything on tags; what stands in the way is frozen, until nothing does.
void ChannelGroups::collect() {
  auto& tags = tagger_->tags();
  for (;;) {
    groups_ = collect_groups(*tagger_);
    std::vector<bool> removed(static_cast<std::size_t>(tags.size()), false);
    std::vector<std::uint32_t> group_of(static_cast<std::size_t>(tags.size()), kNoGroup);
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      if (groups_[g].is_frozen()) continue;
      for (const auto unit : groups_[g].units) group_of[static_cast<std::size_t>(unit)] = static_cast<std::uint32_t>(g);
      for (const auto unit : probed_units(groups_[g])) removed[static_cast<std::size_t>(unit)] = true;
    }
    RemovalPlanner planner(*tagger_, removed);
    const auto obstacle = planner.run();
    if (!obstacle) {
      name_constants(*tagger_, planner.result(), group_of, groups_);
      return;
    }
    const auto reason = tags.reason(obstacle->reason);
    std::set<std::size_t> stuck;
    for (const auto tag : obstacle->tags)
      if (const auto group = group_of[static_cast<std::size_t>(tag)]; group != kNoGroup) stuck.insert(group);
    if (stuck.empty())
      for (std::size_t g = 0; g < groups_.size(); ++g)
        if (!groups_[g].is_frozen()) stuck.insert(g);
    for (const auto g : stuck)
      for (const auto unit : groups_[g].units) tags.freeze(unit, reason);
  }
}

void name_constants(const Tagger& tagger, const Removal& removal, const std::vector<std::uint32_t>& group_of,
                    std::vector<ChannelGroup>& groups) {
  const auto& graph = tagger.model().graph();
  const auto note = [&](NodeId id, std::size_t position) {
    const auto& node = graph.node(id);
    std::set<std::size_t> concerned;
    const auto visit = [&](ValueId value) {
      for (const auto& layer : tagger.value(value).layers)
        for (const auto axis : varying_axes(layer))
          for (const auto tag : tags_along(layer, axis))
            if (const auto group = tag < 0 ? kNoGroup : group_of[static_cast<std::size_t>(tagger.tags().find(tag))];
                group != kNoGroup)
              concerned.insert(group);
    };
    visit(node.input(0) == kNoValue ? node.output() : node.input(0));
    for (const auto group : concerned) groups[group].constants.push_back(describe(graph, node, position));
  };
  for (const auto& constant : removal.constants) note(constant.node, constant.position);
  for (const auto& replacement : removal.replacements) note(replacement.node, 1);
}

const ChannelGroup& ChannelGroups::group(std::string_view name) const {
  const auto found = std::ranges::find(groups_, name, &ChannelGroup::name);
  if (found == groups_.end()) fail("pare.analysis.101", name, "there is no such channel group");
  return *found;
}

Removal ChannelGroups::removal(std::span<const std::int64_t> units) const {
  const auto& tags = tagger_->tags();
  std::vector<bool> removed(static_cast<std::size_t>(tags.size()), false);
  for (const auto unit : units) {
    if (unit < 0 || unit >= tags.size() || tags.find(unit) != unit)
      fail("pare.analysis.102", "", "there is no unit {}", unit);
    if (const auto* reason = tags.frozen(unit))
      fail("pare.analysis.102", "", "unit {} is frozen: {}", unit, reason->text);
    removed[static_cast<std::size_t>(unit)] = true;
  }
  RemovalPlanner planner(*tagger_, removed);
  if (const auto obstacle = planner.run()) fail("pare.analysis.103", "", "{}", obstacle->reason);
  return std::move(planner.result());
}

std::vector<std::int64_t> ChannelGroups::units_along(ValueId value, std::int64_t axis) const {
  const auto& tags = tagger_->tags();
  for (const auto& layer : tagger_->value(value).layers) {
    if (axis >= layer.dim() || !varies(layer, axis)) continue;
    auto units = tags_along(layer, axis);
    for (auto& unit : units) {
      if (unit < 0) continue;
      unit = tags.find(unit);
      if (tags.frozen(unit)) unit = -1;
    }
    return units;
  }
  return {};
}

PARE_NAMESPACE_END
