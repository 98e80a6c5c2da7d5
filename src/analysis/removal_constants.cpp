#include <algorithm>

#include "removal_planner.hpp"

PARE_NAMESPACE_BEGIN

// Sizes of the result, one for each axis from `first_axis` on; -1 is inferred and stays.
std::optional<RemovalPlanner::Obstacle> RemovalPlanner::plan_sizes(const Node& node, std::size_t position,
                                                                   std::int64_t first_axis) {
  const auto* sizes = node.operands[position].get<Operand::Ints>();
  if (!sizes || !touched(node.output())) return std::nullopt;
  auto edited = *sizes;
  bool changed = false;
  const auto& full = tagger_.value(node.output()).sizes;
  for (std::size_t i = 0; i < edited.size(); ++i) {
    const auto axis = first_axis + static_cast<std::int64_t>(i);
    if (edited[i].constant() == -1 || !kept(node.output(), axis)) continue;
    const auto size = resized(edited[i], full[static_cast<std::size_t>(axis)], left(node.output(), axis));
    if (!size)
      return obstacle(node, fmt::format("its size [{}] = {} cannot become {}", i, edited[i].text(graph_.dims()),
                                        left(node.output(), axis)));
    changed = changed || !(*size == edited[i]);
    edited[i] = *size;
  }
  if (changed) set(node, position, std::move(edited));
  return std::nullopt;
}

// Pieces along an axis: equal ones that become unequal are written out.
std::optional<RemovalPlanner::Obstacle> RemovalPlanner::plan_pieces(const Node& node) {
  auto axis = node.operand("dim").integer().value_or(0);
  if (axis < 0) axis += tagger_.value(node.input(0)).rank();
  if (!kept(node.input(0), axis)) return std::nullopt;
  Operand::Ints pieces;
  for (const auto output : node.outputs) {
    pieces.emplace_back(left(output, axis));
    if (*pieces.back().constant() == 0) return obstacle(node, "a piece would be empty");
  }
  const bool equal = std::ranges::all_of(pieces, [&](const auto& piece) { return piece == pieces.front(); });
  if (equal && node.op.base() == "aten::chunk") return std::nullopt;  // as many pieces of what is left
  if (node.op.base() == "aten::split_with_sizes") {
    set(node, 1, std::move(pieces));
  } else {
    result_.replacements.push_back({node.id, "aten::split_with_sizes", {node.operands[0], std::move(pieces), axis}});
  }
  return std::nullopt;
}

// `slice`, `narrow`, `select` along channels: positions become those of the entries that stay.
std::optional<RemovalPlanner::Obstacle> RemovalPlanner::plan_range(const Node& node) {
  auto axis = node.operand("dim").integer().value_or(0);
  if (axis < 0) axis += tagger_.value(node.input(0)).rank();
  const auto& entries = kept(node.input(0), axis);
  if (!entries) return std::nullopt;
  const auto full = tagger_.value(node.input(0)).sizes[static_cast<std::size_t>(axis)];
  const auto before = [&](std::int64_t position) {
    if (position < 0) position += full;
    return std::ranges::count_if(*entries, [&](auto entry) { return entry < position; });
  };
  const auto base = node.op.base();
  if (base == "aten::select") {
    const auto position = node.operands[2].integer();
    if (!position || std::ranges::find(*entries, *position < 0 ? *position + full : *position) == entries->end())
      return obstacle(node, "the entry it picks would be gone");
    set(node, 2, static_cast<std::int64_t>(before(*position)));
    return std::nullopt;
  }
  if (base == "aten::narrow") {
    const auto start = node.operands[2].integer(), length = node.operands[3].integer();
    if (!start || !length) return obstacle(node, "its range depends on sizes");
    const auto first = *start < 0 ? *start + full : *start;
    set(node, 2, static_cast<std::int64_t>(before(first)));
    set(node, 3, static_cast<std::int64_t>(before(first + *length) - before(first)));
    return std::nullopt;
  }
  const std::size_t first = base == "aten::slice_scatter" ? 3 : 2;
  const auto& start = node.operands[first];
  const auto& end = node.operands[first + 1];
  if (node.operands[first + 2].integer().value_or(1) != 1) return obstacle(node, "it skips entries");
  if (!start.is_none()) {
    if (!start.integer()) return obstacle(node, "its start depends on sizes");
    set(node, first, static_cast<std::int64_t>(before(*start.integer())));
  }
  if (!end.is_none()) {
    if (!end.integer()) return obstacle(node, "its end depends on sizes");
    if (*end.integer() < full) set(node, first + 1, static_cast<std::int64_t>(before(*end.integer())));
  }
  return std::nullopt;
}

// Of the filled channels on both sides, those that stay.
std::optional<RemovalPlanner::Obstacle> RemovalPlanner::plan_pad(const Node& node) {
  const auto amounts = node.operand("pad").integers();
  if (!amounts) return obstacle(node, "its amounts depend on sizes");
  auto edited = *amounts;
  const auto& full = tagger_.value(node.output()).sizes;
  for (std::size_t i = 0; i < edited.size() / 2; ++i) {
    const auto axis = static_cast<std::int64_t>(full.size()) - 1 - static_cast<std::int64_t>(i);
    const auto& entries = kept(node.output(), axis);
    if (!entries || ((*amounts)[2 * i] == 0 && (*amounts)[2 * i + 1] == 0)) continue;
    const auto last = full[static_cast<std::size_t>(axis)] - (*amounts)[2 * i + 1];
    edited[2 * i] = std::ranges::count_if(*entries, [&](auto entry) { return entry < (*amounts)[2 * i]; });
    edited[2 * i + 1] = std::ranges::count_if(*entries, [&](auto entry) { return entry >= last; });
  }
  if (edited != *amounts)
    set(node, static_cast<std::size_t>(node.op.argument("pad")), Operand::Ints(edited.begin(), edited.end()));
  return std::nullopt;
}

// Whole groups leave with their channels; otherwise every group lost as many.
std::optional<RemovalPlanner::Obstacle> RemovalPlanner::plan_groups(const Node& node) {
  const bool norm = node.is("aten::group_norm");
  const auto position = static_cast<std::size_t>(node.op.argument(norm ? "num_groups" : "groups"));
  const auto groups = node.operands[position].integer().value_or(1);
  const auto x = node.input(0);
  const auto axis = norm ? 1 : tagger_.value(x).rank() - tagger_.value(node.input(1)).rank() + 1;
  if (groups == 1 || !kept(x, axis)) return std::nullopt;
  const auto inputs = tagger_.value(x).sizes[static_cast<std::size_t>(axis)] / groups;  // of each group
  const auto& weight = tagger_.value(node.input(norm ? 0 : 1)).sizes;
  const auto outputs = norm ? 0 : Tagger::is_transposed(node) ? weight[1] : weight[0] / groups;
  const auto remaining = left(x, axis);
  if (norm || Tagger::keeps_whole_groups(groups, inputs, outputs)) {
    if (remaining % inputs != 0) return obstacle(node, fmt::format("{} channels are no whole groups", remaining));
    set(node, position, remaining / inputs);
  } else if (remaining % groups != 0) {
    return obstacle(node, fmt::format("{} channels in {} groups", remaining, groups));
  }
  return std::nullopt;
}

PARE_NAMESPACE_END
