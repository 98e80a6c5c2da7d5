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
  const auto names = moved(node);
  return Interpreter::call(node, dims, false, [&](ValueId id) {
    if (id == kNoValue) return at::Tensor();
    const auto found = std::ranges::find(names, id);
    if (found == names.end()) return constant(id);
    // A value may stand several times in a list: its tags are the same each time.
    return self[static_cast<std::size_t>(found - names.begin())];
  });
}

namespace {

// An axis of a list of layers that none of them varies along, other than the one they are joined along, need not have
// its full length while they are joined.
std::vector<at::Tensor> thinned(std::vector<at::Tensor> parts, std::int64_t keep) {
  for (std::int64_t k = 0; k < parts[0].dim(); ++k) {
    if (k == keep || std::ranges::any_of(parts, [&](const auto& part) { return varies(part, k); })) continue;
    for (auto& part : parts) part = part.narrow(k, 0, 1);
  }
  return parts;
}

}  // namespace

void Tagger::movement(const Node& node) {
  const auto names = moved(node);
  std::size_t layers = 0;
  for (const auto name : names) layers = std::max(layers, values_[index(name)].layers.size());
  for (const auto& operand : node.operands)  // indices that are themselves channels
    operand.each_value([&](ValueId id) {
      const bool is_self = std::ranges::find(names, id) != names.end();
      if (is_self || values_[index(id)].empty() || constant(id).defined()) return;
      for (const auto& layer : values_[index(id)].layers) freeze(layer, where(node) + " takes them as indices");
    });
  for (std::size_t l = 0; l < layers; ++l) {
    std::vector<at::Tensor> parts;
    for (const auto name : names) {
      const auto& value = values_[index(name)];
      parts.push_back(l < value.layers.size() ? value.layers[l] : at::full({1}, -1, at::kLong).expand(value.sizes));
    }
    const bool joins = node.op.base() == "aten::cat" || node.op.base() == "aten::concat";
    if (joins && !parts.empty()) {
      auto dim = node.operand("dim").integer().value_or(0);
      if (dim < 0) dim += parts[0].dim();
      parts = thinned(std::move(parts), dim);
    }
    std::vector<at::Tensor> results;
    try {
      results = move(node, parts);
    } catch (const std::exception&) {
      for (const auto& part : parts) freeze(part, where(node) + " could not be followed");
      continue;
    }
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      auto& result = values_[index(node.outputs[i])];
      if (results[i].defined() && results[i].dim() == result.rank())
        result.layers.push_back(normalized(joins ? results[i].expand(result.sizes) : results[i]));
    }
  }
  for (const auto output : node.outputs)  // a layer of a weight may not reach every result
    std::erase_if(values_[index(output)].layers, [](const at::Tensor& layer) {
      return layer.numel() == 0 || (varying_axes(layer).empty() && *layer.const_data_ptr<std::int64_t>() < 0);
    });
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
      auto sizes = padded.sizes().vec();
      sizes[static_cast<std::size_t>(axis)] += before + after;
      padded = normalized(at::cat(thinned(parts, axis), axis).expand(sizes));
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
