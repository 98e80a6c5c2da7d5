#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_set>

#include "graph/padding.hpp"
#include "pare/graph/interpreter.hpp"
#include "tagger.hpp"

PARE_NAMESPACE_BEGIN

bool Tagger::moves(const Op& op) {
  static const std::unordered_set<std::string_view> names{
      "aten::view",
      "aten::_unsafe_view",
      "aten::reshape",
      "aten::flatten",
      "aten::unflatten",
      "aten::permute",
      "aten::transpose",
      "aten::t",
      "aten::numpy_T",
      "aten::squeeze",
      "aten::unsqueeze",
      "aten::expand",
      "aten::repeat",
      "aten::tile",
      "aten::slice",
      "aten::select",
      "aten::narrow",
      "aten::chunk",
      "aten::split",
      "aten::split_with_sizes",
      "aten::tensor_split",
      "aten::unbind",
      "aten::flip",
      "aten::roll",
      "aten::pixel_shuffle",
      "aten::pixel_unshuffle",
      "aten::channel_shuffle",
      "aten::cat",
      "aten::concat",
      "aten::concatenate",
      "aten::stack",
      "aten::index_select",
      "aten::index",
      "aten::movedim",
      "aten::moveaxis",
      "aten::swapaxes",
      "aten::swapdims",
      "aten::mT",
      "aten::matrix_H",
      "aten::repeat_interleave",
      "aten::unfold",
      "aten::diagonal",
      "aten::hsplit",
      "aten::vsplit",
  };
  return names.contains(op.base());
}

std::vector<ValueId> Tagger::moved(const Node& node) {
  for (const auto& operand : node.operands) {
    if (const auto* list = operand.get<Operand::Values>()) return *list;
    if (operand.value() != kNoValue) return {operand.value()};
  }
  return {};
}

std::vector<at::Tensor> Tagger::move(const Node& node, const std::vector<at::Tensor>& self) const {
  const auto dims = this->dims();
  const auto base = node.op.base();
  if (base == "aten::view" || base == "aten::_unsafe_view" || base == "aten::reshape") {
    if (const auto* sizes = node.operands[1].get<Operand::Ints>()) {
      std::vector<std::int64_t> shape;
      for (const auto& size : *sizes) shape.push_back(size.evaluate(dims));
      return {self[0].reshape(shape)};
    }
  }
  if (const auto axis = joined_axis(node)) return {joined(self, *axis)};
  const auto names = moved(node);
  return Interpreter::call(node, dims, false, [&](ValueId id) {
    if (id == kNoValue) return at::Tensor();
    const auto found = std::ranges::find(names, id);
    // A value may stand several times in a list: its tags are the same each time.
    if (found != names.end()) return self[static_cast<std::size_t>(found - names.begin())];
    const auto known = constant(id);
    return known.defined() ? known : at::zeros(values_[index(id)].sizes, at::kLong);  // any position: `looked_up_axes`
  });
}

// The axis that a concatenation runs along; none for other nodes.
std::optional<std::int64_t> Tagger::joined_axis(const Node& node) const {
  if (!node.is("aten::cat") && !node.is("aten::concat") && !node.is("aten::concatenate")) return std::nullopt;
  const auto axis = node.operand("dim").integer().value_or(0);
  return axis < 0 ? axis + values_[index(moved(node).at(0))].rank() : axis;
}

// Layers of different values that lie along an axis of both, or that differ along the axis of a concatenation alone,
// belong together; a value without such a one has no tags there.
std::vector<std::vector<at::Tensor>> Tagger::moved_layers(const Node& node) const {
  const auto names = moved(node);
  const auto joint = joined_axis(node);
  const auto across = [&](const at::Tensor& layer) {
    auto axes = varying_axes(layer);
    if (joint) std::erase(axes, *joint);
    return axes;
  };
  const auto together = [&](const at::Tensor& a, const at::Tensor& b) {
    return a.defined() &&
           (across(a) == across(b) || std::ranges::any_of(varying_axes(a), [&](auto axis) { return varies(b, axis); }));
  };
  std::vector<std::vector<at::Tensor>> rows;
  for (std::size_t i = 0; i < names.size(); ++i)
    for (const auto& layer : values_[index(names[i])].layers) {
      auto row = std::ranges::find_if(rows, [&](const auto& known) {
        return !known[i].defined() &&
               std::ranges::any_of(known, [&](const auto& other) { return together(other, layer); });
      });
      if (row == rows.end()) row = rows.insert(row, std::vector<at::Tensor>(names.size()));
      (*row)[i] = layer;
    }
  for (auto& row : rows)
    for (std::size_t i = 0; i < names.size(); ++i)
      if (!row[i].defined()) row[i] = at::full({1}, -1, at::kLong).expand(values_[index(names[i])].sizes);
  return rows;
}

// The parts of a concatenation have the same entries along its other axes, so what lies there goes together.
void Tagger::tie_parts(const Node& node, std::vector<at::Tensor>& parts, std::int64_t joint) {
  const auto first = std::ranges::find_if(
      parts, [&](const auto& part) { return !varies(part, joint) && !varying_axes(part).empty(); });
  if (first == parts.end()) return;
  for (auto part = parts.begin(); part != parts.end(); ++part)
    if (part != first && !varies(*part, joint)) unite(first->narrow(joint, 0, 1), part->narrow(joint, 0, 1), node);
  for (auto& part : parts) part = canonical(part, tags_);
}

// The axes along which integers that depend on the input say what to take. What does not vary along them goes on.
std::vector<std::int64_t> Tagger::looked_up_axes(const Node& node) const {
  std::vector<std::int64_t> axes;
  if (node.is("aten::index_select")) {
    const auto axis = node.operand("dim").integer().value_or(0);
    axes.push_back(axis < 0 ? axis + in(node, 0).rank() : axis);
  } else if (const auto* list = node.is("aten::index") ? node.operands[1].get<Operand::Values>() : nullptr) {
    for (std::size_t i = 0; i < list->size(); ++i) {
      if ((*list)[i] == kNoValue) continue;
      const auto dtype = model_.graph().value((*list)[i]).type.dtype;
      if (dtype != at::kLong && dtype != at::kInt) return {};  // a mask: how much is left depends on it
      axes.push_back(static_cast<std::int64_t>(i));
    }
  }
  return axes;
}

// Runs the op on one layer of what it moves. @return false where that gives nothing of the results' shapes
bool Tagger::follow(const Node& node, const std::vector<at::Tensor>& parts) {
  std::vector<at::Tensor> results;
  try {
    results = move(node, parts);
  } catch (const std::exception&) {
    return false;
  }
  for (std::size_t i = 0; i < node.outputs.size(); ++i)
    if (!results[i].defined() || results[i].sizes() != at::IntArrayRef(values_[index(node.outputs[i])].sizes))
      return false;
  for (std::size_t i = 0; i < node.outputs.size(); ++i)
    values_[index(node.outputs[i])].layers.push_back(normalized(results[i]));
  return true;
}

void Tagger::movement(const Node& node) {
  const auto names = moved(node);
  std::vector<ValueId> unknown;  // what says where to, and depends on the input
  for (const auto& operand : node.operands)
    operand.each_value([&](ValueId id) {
      if (std::ranges::find(names, id) == names.end() && !constant(id).defined()) unknown.push_back(id);
    });
  const auto axes = unknown.empty() ? std::vector<std::int64_t>() : looked_up_axes(node);
  if (!unknown.empty() && axes.empty()) return no_rule(node);
  for (const auto id : unknown)
    for (const auto& layer : values_[index(id)].layers) freeze(layer, where(node) + " takes them as indices");
  const auto joint = joined_axis(node);
  for (auto& parts : moved_layers(node)) {
    if (joint) tie_parts(node, parts, *joint);
    if (std::ranges::any_of(axes, [&](auto axis) { return varies(parts[0], axis); })) {
      freeze(parts[0], where(node) + " looks them up by the input");
      continue;
    }
    if (follow(node, parts)) continue;
    for (const auto& part : parts) freeze(part, where(node) + " could not be followed");
  }
  for (const auto output : node.outputs)  // a layer of a weight may not reach every result
    std::erase_if(values_[index(output)].layers, [](const at::Tensor& layer) {
      return layer.numel() == 0 || (varying_axes(layer).empty() && *layer.const_data_ptr<std::int64_t>() < 0);
    });
}

// What stays must be shuffled as before, so every group keeps the same entries.
void Tagger::channel_shuffle(const Node& node) {
  if (!forcing_) {
    const auto tags = channel(node, in(node, 0), 1);
    const auto width = tags.size() / static_cast<std::size_t>(node.operand("groups").integer().value_or(1));
    for (std::size_t c = width; c < tags.size(); ++c)
      unite(std::vector<std::int64_t>{tags[c]}, std::vector<std::int64_t>{tags[c % width]}, node);
  }
  movement(node);
}

// Padding along an axis without channels leaves them as they are; along the channels it adds new ones, filled with one
// number, of which there may be any count.
void Tagger::pad(const Node& node) {
  const auto x = in(node, 0);
  auto& result = out(node);
  const auto amounts = node.operand("pad").integers();
  for (const auto& layer : x.layers) {
    auto padded = layer;
    if (!amounts) {
      freeze(layer, where(node) + " pads by an amount that depends on sizes");
      continue;
    }
    for (std::size_t i = 0; i < amounts->size() / 2; ++i) {
      const auto axis = x.rank() - 1 - static_cast<std::int64_t>(i);
      const auto before = (*amounts)[2 * i], after = (*amounts)[2 * i + 1];
      if (before == 0 && after == 0) continue;
      if (!varies(padded, axis)) {
        padded = stretched(padded, axis, padded.size(axis) + before + after);
        continue;
      }
      if (!pads_constant(node)) {
        freeze(layer, where(node) + " repeats some of them at the border");
        break;
      }
      if (before < 0 || after < 0) {
        freeze(layer, where(node) + " cuts some of them off");
        break;
      }
      const auto [known, is_new] = first_tag_.try_emplace({index(node.output()), axis}, 0);
      if (is_new) known->second = tags_.add(node.output(), axis, before + after);
      const auto filler = [&](std::int64_t first, std::int64_t count) {
        std::vector<std::int64_t> names;
        for (std::int64_t k = 0; k < count; ++k) names.push_back(tags_.find(first + k));
        auto sizes = padded.sizes().vec();
        sizes[static_cast<std::size_t>(axis)] = count;
        return laid_along(names, axis, sizes);
      };
      std::vector<at::Tensor> parts;
      if (before > 0) parts.push_back(filler(known->second, before));
      parts.push_back(padded);
      if (after > 0) parts.push_back(filler(known->second + before, after));
      padded = normalized(joined(std::move(parts), axis));
    }
    if (padded.sizes() == at::IntArrayRef(result.sizes)) result.layers.push_back(normalized(padded));
  }
}

// A slice is written over: what is written goes with what was there, since both have the same place.
void Tagger::scatter(const Node& node) {
  const auto self = in(node, 0), source = in(node, 1);
  const auto dim = node.operand("dim").integer(), step = node.operand("step").integer();
  const auto &start = node.operand("start"), &end = node.operand("end");
  const auto known = [](const Operand& position) { return position.is_none() || position.integer(); };
  if (!dim || step != 1 || !known(start) || !known(end)) return no_rule(node);
  Tagged window{source.sizes, {}};
  for (const auto& layer : self.layers)
    window.layers.push_back(normalized(layer.slice(*dim, start.integer(), end.integer())));
  static_cast<void>(meet(node, {window, source}, source.sizes));
  out(node).layers = self.layers;
}

// `zeros`, `full`: every entry is the same, so any of them may go.
void Tagger::fill(const Node& node) {
  auto& result = out(node);
  const auto& sizes = model_.graph().value(node.output()).type.sizes;
  for (std::int64_t axis = 0; axis < result.rank(); ++axis) {
    const auto& size = sizes[static_cast<std::size_t>(axis)];
    if (!size.is_constant() || *size.constant() < 2) continue;
    const auto [known, is_new] = first_tag_.try_emplace({index(node.output()), axis}, 0);
    if (is_new) known->second = tags_.add(node.output(), axis, *size.constant());
    std::vector<std::int64_t> names;
    for (std::int64_t k = 0; k < *size.constant(); ++k) names.push_back(tags_.find(known->second + k));
    result.layers.push_back(laid_along(names, axis, result.sizes));
  }
}

PARE_NAMESPACE_END
