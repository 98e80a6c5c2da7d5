#include <ATen/ATen.h>

#include <algorithm>

#include "pare/graph/op_family.hpp"
#include "tagger.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Tags = std::vector<std::int64_t>;

std::size_t at_index(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

bool Tagger::is_transposed(const Node& node) {
  return family_of(node.op) == OpFamily::TransposedConvolution ||
         (node.op.argument("transposed") >= 0 && node.operand("transposed").boolean().value_or(false));
}

// What lies along other axes than the channels: a window slides over them, or they are the samples.
void Tagger::freeze_beside_channels(const Node& node, const Tagged& x, std::int64_t axis) {
  for (const auto& layer : x.layers) {
    const auto axes = varying_axes(layer);
    if (axes.empty() || varies(layer, axis)) continue;
    freeze(layer, where(node) + (axes.back() > axis ? " slides over them" : " reads them as samples"));
  }
}

// A convolution in g groups keeps whole groups, or the same entries of every group (`keeps_whole_groups`).
void Tagger::convolution(const Node& node) {
  if (is_transposed(node)) return transposed_convolution(node);
  const auto x = in(node, 0), weight = in(node, 1);
  const auto groups = node.operand("groups").integer().value_or(1);
  const auto axis = x.rank() - weight.rank() + 1;
  const auto inputs = channel(node, x, axis);
  const auto outputs = channel(node, weight, 0), features = channel(node, weight, 1);
  freeze_beside_channels(node, x, axis);
  freeze_window(weight);
  if (!forcing_) {
    if (groups == 1) {
      unite(inputs, features, node);
    } else {
      tie_groups(node, inputs, outputs, features, groups);
    }
    if (node.operands[2].value() != kNoValue) unite(channel(node, in(node, 2), 0), outputs, node);
  }
  set_channels(node, outputs, axis);
}

void Tagger::tie_groups(const Node& node, const Tags& inputs, const Tags& outputs, const Tags& features,
                        std::int64_t groups) {
  const auto i = static_cast<std::int64_t>(inputs.size()) / groups;
  const auto o = static_cast<std::int64_t>(outputs.size()) / groups;
  const auto tie = [&](std::int64_t a, std::int64_t b) { unite(Tags{a}, Tags{b}, node); };
  if (keeps_whole_groups(groups, i, o)) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto first = outputs[at_index(g * o)];
      for (std::int64_t k = 0; k < i; ++k) tie(inputs[at_index(g * i + k)], first);
      for (std::int64_t k = 1; k < o; ++k) tie(outputs[at_index(g * o + k)], first);
    }
    if (i > 1) freeze(features, "inputs of each group of " + where(node), true);
    return;
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t k = 0; k < i; ++k)
      if (i > 1) tie(inputs[at_index(g * i + k)], features[at_index(k)]);
    for (std::int64_t k = 0; k < o; ++k) tie(outputs[at_index(g * o + k)], outputs[at_index(k)]);
  }
  if (i == 1) freeze(inputs, where(node) + " has fewer groups than outputs of each");
}

void Tagger::transposed_convolution(const Node& node) {
  const auto x = in(node, 0), weight = in(node, 1);
  const auto groups = node.operand("groups").integer().value_or(1);
  const auto axis = x.rank() - weight.rank() + 1;
  const auto inputs = channel(node, x, axis), rows = channel(node, weight, 0), columns = channel(node, weight, 1);
  freeze_beside_channels(node, x, axis);
  freeze_window(weight);
  unite(inputs, rows, node);
  auto outputs = columns;
  if (groups > 1) {
    const auto i = static_cast<std::int64_t>(rows.size()) / groups;
    const auto o = static_cast<std::int64_t>(columns.size());
    const bool whole = keeps_whole_groups(groups, i, o);
    outputs.clear();
    for (std::int64_t g = 0; g < groups; ++g)
      for (std::int64_t k = 0; k < o; ++k) outputs.push_back(whole ? rows[at_index(g * i)] : columns[at_index(k)]);
    for (std::int64_t c = 0; !forcing_ && c < groups * i; ++c)
      unite(Tags{rows[at_index(c)]}, Tags{rows[at_index(whole ? c - c % i : c % i)]}, node);
    if (whole) freeze(columns, "outputs of each group of " + where(node), true);
  }
  if (node.operands[2].value() != kNoValue) unite(channel(node, in(node, 2), 0), outputs, node);
  set_channels(node, outputs, axis);
}

void Tagger::linear(const Node& node) {
  const auto x = in(node, 0);
  auto weight = in(node, 1);
  for (auto& layer : weight.layers) layer = layer.transpose(0, 1);
  std::swap(weight.sizes[0], weight.sizes[1]);
  auto result = product(node, x, weight, out(node).sizes);
  if (node.operands[2].value() != kNoValue) {
    result.layers = meet(node, {result, in(node, 2)}, out(node).sizes);
  }
  out(node).layers = result.layers;
}

void Tagger::addmm(const Node& node) {
  auto result = product(node, in(node, 1), in(node, 2), out(node).sizes);
  result.layers = meet(node, {result, in(node, 0)}, out(node).sizes);
  out(node).layers = result.layers;
}

void Tagger::matmul(const Node& node) {
  const auto a = in(node, 0), b = in(node, 1);
  if (a.rank() < 2 || b.rank() < 2) return no_rule(node);
  out(node).layers = product(node, a, b, out(node).sizes).layers;
}

// `[batch..., m, k] x [batch..., k, n]`: tags along k belong to each other pairwise; those along the batch axes, m and
// n go on. Where channels lie along a batch axis (the heads of attention), everything at one index of it goes together:
// the number of products that are summed is part of what the model computes (scales, rotations).
Tagged Tagger::product(const Node& node, Tagged a, Tagged b, const std::vector<std::int64_t>& sizes) {
  const auto along_batch = [](const at::Tensor& layer) {
    return std::ranges::any_of(varying_axes(layer), [&](auto axis) { return axis < layer.dim() - 2; });
  };
  const auto gather = [&](Tagged& side) {
    for (auto& layer : side.layers) {
      const auto axes = varying_axes(layer);
      if (!along_batch(layer) || axes.back() < layer.dim() - 2) continue;
      unite_all(layer, layer.dim() - 2);
      layer = layer.narrow(-1, 0, 1).narrow(-2, 0, 1).expand(side.sizes);
    }
  };
  gather(a);
  gather(b);
  const auto contracted = [&](const Tagged& side, std::int64_t k) {
    return std::ranges::find_if(side.layers, [&](const at::Tensor& layer) { return varies(layer, k); });
  };
  const auto ka = a.rank() - 1, kb = b.rank() - 2;
  const auto la = contracted(a, ka), lb = contracted(b, kb);
  const auto spread = [&](const at::Tensor& layer, std::int64_t other) { return varies(layer, other); };
  if (la != a.layers.end() && lb != b.layers.end()) {
    if (spread(*la, ka - 1) || spread(*lb, kb + 1)) {
      freeze(*la, where(node) + " sums up a part of each");
      freeze(*lb, where(node) + " sums up a part of each");
    } else {
      unite(tags_along(*la, ka), tags_along(*lb, kb), node);
    }
  } else if (la != a.layers.end()) {
    freeze(*la, where(node) + " multiplies them with a tensor that has no channels there");
  } else if (lb != b.layers.end()) {
    freeze(*lb, where(node) + " reads inputs that cannot be removed");
  }
  // What is left: [batch..., m, 1] meets [batch..., 1, n].
  const auto rest = [](const Tagged& side, std::int64_t k) {
    Tagged result;
    result.sizes = side.sizes;
    result.sizes[at_index(k)] = 1;
    for (const auto& layer : side.layers)
      if (!varies(layer, k)) result.layers.push_back(layer.narrow(k, 0, 1));
    return result;
  };
  Tagged result;
  result.sizes = sizes;
  result.layers = meet(node, {rest(a, ka), rest(b, kb)}, sizes);
  return result;
}

void Tagger::attention(const Node& node) {
  auto query = in(node, 0), key = in(node, 1), value = in(node, 2);
  const auto& result = out(node);
  const auto spread_heads = [&](Tagged& side) {  // `enable_gqa`: several query heads read one key and value head
    const auto heads = query.sizes[at_index(query.rank() - 3)], own = side.sizes[at_index(side.rank() - 3)];
    if (own == heads) return;
    for (auto& layer : side.layers) layer = normalized(layer.repeat_interleave(heads / own, side.rank() - 3));
    side.sizes[at_index(side.rank() - 3)] = heads;
  };
  if (query.rank() > 2 && query.rank() == key.rank()) {
    spread_heads(key);
    spread_heads(value);
  }
  auto scores = result.sizes;
  scores.back() = key.sizes[at_index(key.rank() - 2)];
  for (auto& layer : key.layers) layer = layer.transpose(-1, -2);
  std::swap(key.sizes[at_index(key.rank() - 1)], key.sizes[at_index(key.rank() - 2)]);
  auto weights = product(node, query, key, scores);
  if (node.operands[3].value() != kNoValue) weights.layers = meet(node, {weights, in(node, 3)}, scores);
  for (const auto& layer : weights.layers)
    if (varies(layer, layer.dim() - 1)) freeze(layer, where(node) + " weighs them against each other");
  std::erase_if(weights.layers, [](const at::Tensor& layer) { return varies(layer, layer.dim() - 1); });
  out(node).layers = product(node, weights, value, result.sizes).layers;
}

void Tagger::embedding(const Node& node) {
  const auto weight = in(node, 0);
  freeze(channel(node, weight, 0), where(node) + " looks them up by the input");
  for (const auto& layer : in(node, 1).layers) freeze(layer, where(node) + " takes them as indices");
  set_channels(node, channel(node, weight, 1), -1);
}

// A hidden unit is a row of every gate, a column of the recurrent matrix, an entry of the states and an input of the
// next layer. Layers and directions share one hidden size, so unit j of each goes with unit j of the others.
void Tagger::recurrent(const Node& node) {
  const auto& operands = node.operands;
  const auto* params = node.operand("params").get<Operand::Values>();
  if (!params || operands[0].value() == kNoValue || node.op.name().ends_with(".data")) return no_rule(node);
  const bool biases = node.operand("has_biases").boolean().value_or(true);
  const auto layers = node.operand("num_layers").integer().value_or(1);
  const std::int64_t directions = node.operand("bidirectional").boolean().value_or(false) ? 2 : 1;
  const std::size_t stride = biases ? 4 : 2;
  if (params->size() != stride * at_index(layers * directions)) return no_rule(node);  // projected states
  const auto read = [&](std::size_t i) { return values_[index((*params)[i])]; };
  const auto hidden = read(1).sizes[1];
  const auto gates = read(1).sizes[0] / hidden;
  const auto units = channel(node, read(1), 1);
  const auto tie_gates = [&](const Tags& rows) {
    for (std::int64_t g = 0; g < gates; ++g)
      unite(Tags(rows.begin() + g * hidden, rows.begin() + (g + 1) * hidden), units, node);
  };
  const auto x = in(node, 0);
  for (const auto& layer : x.layers)
    if (!varying_axes(layer).empty() && !varies(layer, layer.dim() - 1))
      freeze(layer, where(node) + " reads them as steps or samples");
  auto inputs = channel(node, x, -1);
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    for (std::int64_t direction = 0; direction < directions; ++direction) {
      const auto first = stride * at_index(layer * directions + direction);
      unite(channel(node, read(first), 1), inputs, node);
      unite(channel(node, read(first + 1), 1), units, node);
      for (std::size_t i = 0; i < stride; ++i) tie_gates(channel(node, read(first + i), 0));
    }
    inputs.clear();
    for (std::int64_t direction = 0; direction < directions; ++direction)
      inputs.insert(inputs.end(), units.begin(), units.end());
  }
  std::vector<ValueId> states;
  node.operands[1].each_value([&](ValueId id) { states.push_back(id); });
  for (const auto id : states) unite(channel(node, values_[index(id)], -1), units, node);
  set_channels(node, inputs, -1);
  for (std::size_t i = 1; i < node.outputs.size(); ++i) {
    auto& state = values_[index(node.outputs[i])];
    state.layers.push_back(normalized(laid_along(units, state.rank() - 1, state.sizes)));
  }
}

PARE_NAMESPACE_END
