#include "tagger.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <set>

#include "pare/graph/interpreter.hpp"
#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool has_products(const Graph& graph) {
  return std::ranges::any_of(graph.nodes(), [&](NodeId id) {
    const auto family = family_of(graph, id);
    return family == OpFamily::MatrixMultiply || family == OpFamily::Attention;
  });
}

}  // namespace

Tagger::Tagger(const Model& model) : model_(model) {
  const auto& graph = model.graph();
  const auto dims = graph.example_dims();
  values_.resize(graph.value_count());
  for (std::size_t i = 0; i < values_.size(); ++i)
    values_[i].sizes = graph.value(ValueId{static_cast<std::uint32_t>(i)}).type.sizes_at(dims);
}

void Tagger::seed_weights() {
  const auto& graph = model_.graph();
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const ValueId id{static_cast<std::uint32_t>(i)};
    auto& value = values_[i];
    value.layers.clear();
    if (graph.value(id).kind != ValueKind::Weight || graph.uses(id).empty()) continue;
    for (std::int64_t dim = 0; dim < value.rank(); ++dim) {
      const auto count = value.sizes[static_cast<std::size_t>(dim)];
      if (count < 2) continue;
      const auto [known, is_new] = first_tag_.try_emplace({i, dim}, 0);
      if (is_new) known->second = tags_.add(id, dim, count);
      std::vector<std::int64_t> names(static_cast<std::size_t>(count));
      for (std::int64_t k = 0; k < count; ++k) names[static_cast<std::size_t>(k)] = tags_.find(known->second + k);
      value.layers.push_back(normalized(laid_along(names, dim, value.sizes)));
    }
  }
}

void Tagger::propagate() {
  seed_weights();
  const auto& graph = model_.graph();
  for (const auto id : graph.nodes()) {
    const auto& node = graph.node(id);
    if (node.outputs.empty()) continue;
    for (const auto output : node.outputs) values_[index(output)].layers.clear();
    try {
      (this->*rule_of(node))(node);
    } catch (const std::exception&) {  // a form of the op that its rule does not know
      for (const auto output : node.outputs) values_[index(output)].layers.clear();
      no_rule(node);
    }
  }
}

Tagger::Rule Tagger::rule_of(const Node& node) {
  if (node.barrier) return &Tagger::no_rule;
  const auto& table = rules();
  if (const auto found = table.find(node.op.base()); found != table.end()) return found->second;
  if (moves(node.op)) return &Tagger::movement;
  const bool pointwise = family_of(node.op) == OpFamily::Activation || node.op.handle().hasTag(at::Tag::pointwise);
  return pointwise ? &Tagger::elementwise : &Tagger::no_rule;
}

void Tagger::run() {
  const at::NoGradGuard no_grad;
  if (has_products(model_.graph())) {
    forcing_ = true;
    propagate();
    forcing_ = false;
    tags_.thaw();
  }
  propagate();
  freeze_outputs();
  settle();
}

void Tagger::freeze_outputs() {
  const auto& outputs = model_.graph().outputs();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i] == kNoValue) continue;
    for (const auto& layer : values_[index(outputs[i])].layers)
      freeze(layer,
             outputs.size() == 1 ? "they are the model's output" : fmt::format("they are the model's output {}", i));
  }
}

std::string Tagger::where(const Node& node) { return fmt::format("{} ({})", node.name, node.op.name()); }

at::Tensor Tagger::constant(ValueId id) const {
  const auto& graph = model_.graph();
  const auto& value = graph.value(id);
  if (value.kind == ValueKind::Weight) return model_.weight(id).detach();
  const auto* node = graph.producer(id);
  if (!node || node->barrier) return {};
  if (const auto known = constants_.find(index(id)); known != constants_.end()) return known->second;
  bool computable = true;
  for (const auto& operand : node->operands)
    operand.each_value([&](ValueId input) { computable = computable && constant(input).defined(); });
  at::Tensor result;
  if (computable)
    result = Interpreter::call(*node, dims(), false, [&](ValueId input) {
      return input == kNoValue ? at::Tensor() : constant(input);
    })[value.position];
  return constants_[index(id)] = result;
}

// ---- Classes as slabs

void Tagger::unite_slices(ValueId id, const at::Tensor& classes, std::int64_t axis) {
  const auto* producer = model_.graph().producer(id);
  const auto name = producer ? where(*producer) : model_.graph().value(id).name;
  for (std::int64_t i = 0; i < classes.size(axis); ++i) {
    const auto slice = classes.select(axis, i).contiguous();
    const auto* tags = slice.const_data_ptr<std::int64_t>();
    bool bare = false;
    for (std::int64_t e = 0; e < slice.numel(); ++e) bare = bare || tags[e] < 0;
    for (std::int64_t e = 0; e < slice.numel(); ++e) {
      if (tags[e] < 0) continue;
      if (bare) {
        tags_.freeze(tags[e], tags_.reason(fmt::format("{} has entries beside them that cannot be removed", name)));
      } else if (tags[0] >= 0) {
        tags_.unite(tags[0], tags[e]);
      }
    }
  }
}

bool Tagger::settle(ValueId id, at::Tensor& layer) {
  auto before = canonical(layer, tags_);
  const auto axes = varying_axes(before);
  layer = before;
  if (axes.size() < 2) return false;
  // Along which axis do most classes remain?
  const auto classes = compressed(before);
  std::int64_t best = axes.front(), most = -1;
  for (const auto axis : axes) {
    std::map<std::int64_t, std::int64_t> parent;
    const std::function<std::int64_t(std::int64_t)> root = [&](std::int64_t tag) {
      auto& up = parent.try_emplace(tag, tag).first->second;
      return up == tag ? tag : up = root(up);
    };
    for (std::int64_t i = 0; i < classes.size(axis); ++i) {
      const auto slice = classes.select(axis, i).contiguous();
      const auto* tags = slice.const_data_ptr<std::int64_t>();
      for (std::int64_t e = 0; e < slice.numel(); ++e) {
        const auto a = root(tags[0]), b = root(tags[e]);
        if (a != b) parent[b] = a;
      }
    }
    std::set<std::int64_t> left;
    for (const auto& [tag, up] : parent)
      if (tag >= 0) left.insert(root(tag));
    if (static_cast<std::int64_t>(left.size()) > most) {
      most = static_cast<std::int64_t>(left.size());
      best = axis;
    }
  }
  unite_slices(id, classes, best);
  return true;
}

void Tagger::settle() {
  bool changed = true;
  for (int round = 0; changed && round < 64; ++round) {
    changed = false;
    for (std::size_t i = 0; i < values_.size(); ++i)
      for (auto& layer : values_[i].layers) changed = settle(ValueId{static_cast<std::uint32_t>(i)}, layer) || changed;
  }
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const ValueId id{static_cast<std::uint32_t>(i)};
    for (auto& layer : values_[i].layers) {
      if (changed) layer = canonical(layer, tags_);  // otherwise the last round united nothing
      if (!varying_axes(layer).empty() || layer.numel() == 0) continue;
      const auto* producer = model_.graph().producer(id);
      freeze(layer,
             fmt::format("nothing would be left of {}", producer ? where(*producer) : model_.graph().value(id).name));
    }
  }
}

PARE_NAMESPACE_END
