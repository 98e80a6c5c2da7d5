#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "layers.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Carries tags through a graph: ops that move elements are run on the tags themselves, elementwise ops unite the tags
/// that meet, ops that mix channels have a rule each. Everything else freezes what reaches it.
class Tagger {
 public:
  explicit Tagger(const Model& model);

  /// Tags every value, then makes each value's classes slabs along one axis, so that any set of them can be removed.
  void run();

  [[nodiscard]] const Model& model() const noexcept { return model_; }
  [[nodiscard]] TagTable& tags() noexcept { return tags_; }
  [[nodiscard]] const TagTable& tags() const noexcept { return tags_; }
  [[nodiscard]] const Tagged& value(ValueId id) const { return values_[index(id)]; }
  [[nodiscard]] const std::vector<Tagged>& values() const noexcept { return values_; }
  [[nodiscard]] std::vector<std::int64_t> dims() const { return model_.graph().example_dims(); }
  /// A tensor that depends on weights only (indices, masks), computed when asked for; undefined if it depends on
  /// inputs.
  [[nodiscard]] at::Tensor constant(ValueId id) const;

  /// Runs an op that moves elements on tags: one tensor for each result. Views become reshapes, which tags allow.
  /// @param self  the tags of the first tensor operand, or of all in a list
  [[nodiscard]] std::vector<at::Tensor> move(const Node& node, const std::vector<at::Tensor>& self) const;
  /// Whether the node only moves elements.
  static bool moves(const Op& op);
  /// Whether a convolution is a transposed one.
  static bool is_transposed(const Node& node);
  /// Whether a convolution in groups keeps whole groups rather than the same entries of every group: whichever leaves
  /// more to choose. @param inputs,outputs of each group
  static bool keeps_whole_groups(std::int64_t groups, std::int64_t inputs, std::int64_t outputs) {
    return groups >= std::max(inputs, outputs);
  }
  /// Values of the first tensor operand, or of the list that it is.
  static std::vector<ValueId> moved(const Node& node);
  /// What `move` is to be run on: for each layer of what a node moves, one tensor for each of `moved(node)`.
  [[nodiscard]] std::vector<std::vector<at::Tensor>> moved_layers(const Node& node) const;

 private:
  using Rule = void (Tagger::*)(const Node&);
  static const std::map<std::string, Rule, std::less<>>& rules();
  static Rule rule_of(const Node& node);

  void propagate();
  void seed_weights();
  void freeze_outputs();
  void settle();
  bool settle(ValueId id, at::Tensor& layer);
  void unite_slices(ValueId id, const at::Tensor& classes, std::int64_t axis);

  // Rules.
  void elementwise(const Node& node);
  void movement(const Node& node);
  void cast(const Node& node);
  void channel_shuffle(const Node& node);
  void convolution(const Node& node);
  void transposed_convolution(const Node& node);
  void linear(const Node& node);
  void addmm(const Node& node);
  void matmul(const Node& node);
  void attention(const Node& node);
  void channel_norm(const Node& node);
  void group_norm(const Node& node);
  void layer_norm(const Node& node);
  void prelu(const Node& node);
  void softmax(const Node& node);
  void reduction(const Node& node);
  void spatial(const Node& node);
  void embedding(const Node& node);
  void recurrent(const Node& node);
  void pad(const Node& node);
  void scatter(const Node& node);
  void fill(const Node& node);
  void fake_quantize_channels(const Node& node);
  void no_rule(const Node& node);

  // Pieces that rules are made of.
  Tagged& out(const Node& node) { return values_[index(node.output())]; }
  [[nodiscard]] Tagged in(const Node& node, std::size_t position) const;
  [[nodiscard]] std::optional<std::int64_t> joined_axis(const Node& node) const;
  [[nodiscard]] std::vector<std::int64_t> looked_up_axes(const Node& node) const;
  void tie_parts(const Node& node, std::vector<at::Tensor>& parts, std::int64_t joint);
  bool follow(const Node& node, const std::vector<at::Tensor>& parts);
  [[nodiscard]] Tagged weight_along(const Tagged& weight, std::int64_t axis, std::int64_t rank) const;
  std::vector<at::Tensor> meet(const Node& node, const std::vector<Tagged>& operands,
                               const std::vector<std::int64_t>& sizes);
  std::vector<std::int64_t> channel(const Node& node, const Tagged& value, std::int64_t axis);
  void unite(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b, const Node& node);
  void unite(const at::Tensor& a, const at::Tensor& b, const Node& node);
  void unite_all(const at::Tensor& layer, std::int64_t keep_axes_before);
  void freeze(const at::Tensor& layer, const std::string& why, bool hidden = false);
  void freeze(const std::vector<std::int64_t>& tags, const std::string& why, bool hidden = false);
  void freeze_window(const Tagged& weight);
  void freeze_beside_channels(const Node& node, const Tagged& x, std::int64_t axis);
  void tie_groups(const Node& node, const std::vector<std::int64_t>& inputs, const std::vector<std::int64_t>& outputs,
                  const std::vector<std::int64_t>& features, std::int64_t groups);
  Tagged product(const Node& node, Tagged a, Tagged b, const std::vector<std::int64_t>& sizes);
  void set_channels(const Node& node, const std::vector<std::int64_t>& tags, std::int64_t axis);
  [[nodiscard]] static std::string where(const Node& node);

  const Model& model_;
  TagTable tags_;
  std::vector<Tagged> values_;
  mutable std::map<std::size_t, at::Tensor> constants_;
  std::map<std::pair<std::size_t, std::int64_t>, std::int64_t> first_tag_;  // of (value, axis)
  bool forcing_ = false;  // the first of two walks: only what matrix products force together
};

PARE_NAMESPACE_END
