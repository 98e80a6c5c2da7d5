#include "removal_planner.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "graph/padding.hpp"
#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

RemovalPlanner::RemovalPlanner(const Tagger& tagger, const std::vector<bool>& removed)
    : tagger_(tagger),
      graph_(tagger.model().graph()),
      removed_(removed),
      dims_(tagger.dims()),
      touched_(graph_.value_count(), false),
      kept_(graph_.value_count()) {
  keep_of_values();
}

void RemovalPlanner::keep_of_values() {
  for (std::size_t i = 0; i < touched_.size(); ++i) {
    const auto& value = tagger_.values()[i];
    for (const auto& layer : value.layers) {
      const auto axes = varying_axes(layer);
      if (axes.size() != 1) continue;
      const auto tags = tags_along(layer, axes[0]);
      Kept kept;
      kept.reserve(tags.size());
      for (std::size_t k = 0; k < tags.size(); ++k)
        if (!is_removed(tags[k])) kept.push_back(static_cast<std::int64_t>(k));
      if (kept.size() == tags.size()) continue;
      touched_[i] = true;
      kept_[i].resize(value.sizes.size());
      kept_[i][static_cast<std::size_t>(axes[0])] = std::move(kept);
    }
  }
}

const std::optional<RemovalPlanner::Kept>& RemovalPlanner::kept(ValueId id, std::int64_t axis) const {
  static const std::optional<Kept> all;
  return touched(id) ? kept_[index(id)][static_cast<std::size_t>(axis)] : all;
}

std::int64_t RemovalPlanner::left(ValueId id, std::int64_t axis) const {
  const auto& entries = kept(id, axis);
  return entries ? static_cast<std::int64_t>(entries->size()) : tagger_.value(id).sizes[static_cast<std::size_t>(axis)];
}

// Axes on which tags do not vary stay free of numbers: a linear layer's weight would otherwise be written out whole.
at::Tensor RemovalPlanner::reduced(ValueId id, const at::Tensor& layer) const {
  auto sizes = layer.sizes().vec();
  auto result = layer;
  for (std::int64_t axis = 0; axis < layer.dim(); ++axis)
    if (!varies(layer, axis) && layer.size(axis) > 1) result = result.narrow(axis, 0, 1);
  for (std::int64_t axis = 0; axis < layer.dim(); ++axis) {
    const auto& entries = kept(id, axis);
    if (!entries) continue;
    sizes[static_cast<std::size_t>(axis)] = static_cast<std::int64_t>(entries->size());
    if (varies(layer, axis)) result = result.index_select(axis, at::tensor(*entries, at::kLong));
  }
  return result.expand(sizes);
}

RemovalPlanner::Obstacle RemovalPlanner::obstacle(const Node& node, const std::string& what) const {
  Obstacle found{fmt::format("{} ({}): {}", node.name, node.op.name(), what), {}};
  const auto add = [&](ValueId id) {
    for (const auto& layer : tagger_.value(id).layers) {
      const auto cut = compressed(layer);
      const auto* tags = cut.const_data_ptr<std::int64_t>();
      for (std::int64_t i = 0; i < cut.numel(); ++i)
        if (is_removed(tags[i])) found.tags.push_back(tagger_.tags().find(tags[i]));
    }
  };
  for (const auto& operand : node.operands) operand.each_value(add);
  for (const auto output : node.outputs) add(output);
  return found;
}

std::optional<RemovalPlanner::Obstacle> RemovalPlanner::run() {
  const at::NoGradGuard no_grad;
  for (const auto id : graph_.nodes()) {
    const auto& node = graph_.node(id);
    bool involved = std::ranges::any_of(node.outputs, [&](ValueId value) { return touched(value); });
    for (const auto& operand : node.operands)
      operand.each_value([&](ValueId value) { involved = involved || touched(value); });
    if (!involved) continue;
    if (auto found = plan(node)) return found;
  }
  plan_weights();
  plan_types();
  return std::nullopt;
}

void RemovalPlanner::plan_weights() {
  for (std::size_t i = 0; i < touched_.size(); ++i) {
    const auto& value = graph_.value(ValueId{static_cast<std::uint32_t>(i)});
    if (!touched_[i] || value.kind != ValueKind::Weight) continue;
    for (std::size_t axis = 0; axis < kept_[i].size(); ++axis)
      if (kept_[i][axis]) result_.weights.push_back({value.name, static_cast<std::int64_t>(axis), *kept_[i][axis]});
  }
}

void RemovalPlanner::plan_types() {
  for (std::size_t i = 0; i < touched_.size(); ++i) {
    const auto& value = graph_.value(ValueId{static_cast<std::uint32_t>(i)});
    if (!touched_[i] || value.kind == ValueKind::Weight) continue;
    auto type = value.type;
    for (std::size_t axis = 0; axis < kept_[i].size(); ++axis)
      if (kept_[i][axis])
        if (const auto size = resized(type.sizes[axis], tagger_.values()[i].sizes[axis],
                                      static_cast<std::int64_t>(kept_[i][axis]->size())))
          type.sizes[axis] = *size;
    result_.types.push_back({value.id, std::move(type)});
  }
}

// A size that holds `full` now, for `left` entries; a product with a dim (`4*batch`) is scaled.
std::optional<SymbolicInt> RemovalPlanner::resized(const SymbolicInt& size, std::int64_t full,
                                                   std::int64_t left) const {
  if (full == left) return size;
  if (const auto number = size.constant()) return *number == full ? std::optional(SymbolicInt(left)) : std::nullopt;
  if (size.evaluate(dims_) != full) return std::nullopt;
  std::vector<SymbolicInt::Term> terms;
  for (auto term : size.terms()) {
    if (term.coefficient * left % full != 0) return std::nullopt;
    term.coefficient = term.coefficient * left / full;
    terms.push_back(std::move(term));
  }
  if (size.offset() * left % full != 0) return std::nullopt;
  terms.push_back({size.offset() * left / full, {}});
  return SymbolicInt(std::move(terms), size.divisor());
}

void RemovalPlanner::set(const Node& node, std::size_t position, Operand operand) {
  result_.constants.push_back({node.id, position, std::move(operand)});
}

std::optional<RemovalPlanner::Obstacle> RemovalPlanner::plan(const Node& node) {
  const auto base = node.op.base();
  const auto family = family_of(node.op);
  const auto argument = [&](std::string_view name) { return static_cast<std::size_t>(node.op.argument(name)); };
  std::optional<Obstacle> found;
  if (base == "aten::view" || base == "aten::_unsafe_view" || base == "aten::reshape" || base == "aten::expand") {
    found = plan_sizes(node, 1, 0);
  } else if (base == "aten::unflatten") {
    auto axis = node.operands[1].integer().value_or(0);
    found = plan_sizes(node, 2, axis < 0 ? axis + tagger_.value(node.input(0)).rank() : axis);
  } else if (base == "aten::zeros" || base == "aten::ones" || base == "aten::full" || base == "aten::empty" ||
             base == "aten::new_zeros" || base == "aten::new_ones" || base == "aten::new_full") {
    found = plan_sizes(node, argument("size"), 0);
  } else if (base == "aten::layer_norm" || base == "aten::rms_norm" || base == "aten::native_layer_norm") {
    const auto* shape = node.operands[1].get<Operand::Ints>();
    const auto rank = tagger_.value(node.input(0)).rank();
    found = plan_sizes(node, 1, rank - static_cast<std::int64_t>(shape ? shape->size() : 1));
  } else if (base == "aten::chunk" || base == "aten::split" || base == "aten::split_with_sizes") {
    found = plan_pieces(node);
  } else if (base == "aten::slice" || base == "aten::slice_scatter" || base == "aten::narrow" ||
             base == "aten::select") {
    found = plan_range(node);
  } else if (is_padding(node)) {
    found = plan_pad(node);
  } else if (base == "aten::group_norm" || family == OpFamily::Convolution ||
             family == OpFamily::TransposedConvolution) {
    found = plan_groups(node);
  } else if (base == "aten::scaled_dot_product_attention") {
    const auto query = node.input(0);
    const auto axis = tagger_.value(query).rank() - 1;
    if (kept(query, axis) && node.operand("scale").is_none())
      set(node, argument("scale"), 1.0 / std::sqrt(static_cast<double>(tagger_.value(query).sizes.back())));
  }
  if (!found && Tagger::moves(node.op)) found = check_movement(node);
  return found;
}

// The edited node on the tags that stay must give the tags that stay.
std::optional<RemovalPlanner::Obstacle> RemovalPlanner::check_movement(const Node& node) const {
  auto edited = node;
  for (const auto& constant : result_.constants)
    if (constant.node == node.id) edited.operands[constant.position] = constant.operand;
  for (const auto& replacement : result_.replacements) {
    if (replacement.node != node.id) continue;
    edited.op = Op(replacement.op);
    edited.operands = replacement.operands;
  }
  const auto names = Tagger::moved(node);
  const auto rows = tagger_.moved_layers(node);
  const auto moved = [&](const Node& how, const std::vector<at::Tensor>& parts) {
    try {
      return tagger_.move(how, parts);
    } catch (const std::exception&) {
      return std::vector<at::Tensor>();
    }
  };
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::vector<at::Tensor> parts;
    for (std::size_t i = 0; i < names.size(); ++i) parts.push_back(reduced(names[i], rows[r][i]));
    const auto results = moved(edited, parts);
    if (results.empty()) return obstacle(node, "no other constant would do");
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      const auto& output = tagger_.value(node.outputs[i]);
      const auto is_left_of = [&](const at::Tensor& layer) {
        if (layer.sizes() != at::IntArrayRef(output.sizes)) return false;
        const auto wanted = canonical(reduced(node.outputs[i], layer), tagger_.tags());
        const auto actual = canonical(results[i], tagger_.tags());
        return actual.sizes() == wanted.sizes() && compressed(actual).equal(compressed(wanted));
      };
      if (r < output.layers.size() && is_left_of(output.layers[r])) continue;
      // Behind a layer that does not reach every result, the others stand elsewhere.
      const auto whole = moved(node, rows[r]);
      if (whole.empty() || !is_left_of(normalized(whole[i])))
        return obstacle(node, "what is left would end up elsewhere");
    }
  }
  return std::nullopt;
}

PARE_NAMESPACE_END
