#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "pare/distill/distillation_batch.hpp"

PARE_NAMESPACE_BEGIN

/// A layer of the student and the layer of the teacher that it learns from, by module path.
struct LayerPair {
  std::string student;
  std::string teacher;
  friend bool operator==(const LayerPair&, const LayerPair&) = default;
};

/// What a loss asks for before the first batch.
struct FeatureRequest {
  std::vector<std::string> student_paths = {};  ///< what there is: every module path, and for Models every layer name
  std::vector<std::string> teacher_paths = {};
  std::vector<LayerPair> wanted = {};  ///< filled by the losses; an empty path asks nothing of that side
};

/// Which layer of the student learns from which of the teacher.
///
///     pare::LayerMap{"layer3", "layer3"}                                  // one pair: student, teacher
///     pare::LayerMap{{"layer1", "layer2"}, {"layer3", "layer6"}}          // several
///     pare::LayerMap::uniform("encoder.layer", "encoder.layer")           // 3 of 6: the 2nd, 4th and 6th
///
/// A stack is a module whose children have numbers for names. A student that lost layers keeps the numbers of the
/// others; they are counted in order.
class LayerMap {
 public:
  /// No pair: losses that take one fall back to the outputs.
  LayerMap() = default;
  LayerMap(std::string student, std::string teacher);
  LayerMap(std::initializer_list<LayerPair> pairs) : pairs_(pairs) {}
  explicit LayerMap(std::vector<LayerPair> pairs) : pairs_(std::move(pairs)) {}

  /// Each layer of the student learns from the last of an equal share of the teacher's. Sun et al., "Patient Knowledge
  /// Distillation for BERT", 2019.
  static LayerMap uniform(std::string student_stack, std::string teacher_stack);
  /// The student's layers learn from as many last ones of the teacher.
  static LayerMap last(std::string student_stack, std::string teacher_stack);
  /// By the features on the example batch: of all maps that keep the order, the one whose pairs are most alike
  /// (`linear_alignment`); last learns from last.
  static LayerMap search(std::string student_stack, std::string teacher_stack);

  [[nodiscard]] bool empty() const noexcept { return pairs_.empty() && student_stack_.empty(); }
  /// The pairs: as given, or what `request` and `choose` made of the stacks.
  [[nodiscard]] const std::vector<LayerPair>& pairs() const noexcept { return pairs_; }

  /// Works out the pairs where that needs names alone, and asks for the features.
  /// @throws Error `pare.distill.103` for a stack that has no layers, or fewer in the teacher than in the student
  void request(FeatureRequest& request);
  /// Picks the pairs by features, for `search`; otherwise does nothing.
  void choose(const DistillationBatch& example);

 private:
  enum class Rule : std::uint8_t { Given, Uniform, Last, Search };
  LayerMap(Rule rule, std::string student_stack, std::string teacher_stack);

  std::vector<LayerPair> pairs_;
  Rule rule_ = Rule::Given;
  std::string student_stack_, teacher_stack_;
  std::vector<std::string> student_layers_, teacher_layers_;
};

/// The numbered children of a stack among module paths, in the order of their numbers: `encoder.layer.0`, ….
[[nodiscard]] std::vector<std::string> layers_of_stack(const std::vector<std::string>& paths, std::string_view stack);

PARE_NAMESPACE_END
