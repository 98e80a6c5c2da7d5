#pragma once

#include <fmt/format.h>

#include <optional>
#include <vector>

#include "pare/analysis/removal.hpp"
#include "tagger.hpp"

PARE_NAMESPACE_BEGIN

/// Works out the edits that remove a set of classes, and proves on tags that each op still moves the elements that stay
/// to where they were.
class RemovalPlanner {
 public:
  /// What cannot be: which node, why, and the classes that meet there.
  struct Obstacle {
    std::string reason;
    std::vector<std::int64_t> tags;
  };

  /// @param removed  for each tag that represents a class, whether it goes
  RemovalPlanner(const Tagger& tagger, const std::vector<bool>& removed);
  /// Plans all edits. @return the first obstacle, if there is one
  std::optional<Obstacle> run();
  [[nodiscard]] Removal& result() noexcept { return result_; }

 private:
  using Kept = std::vector<std::int64_t>;

  [[nodiscard]] bool is_removed(std::int64_t tag) const {
    return tag >= 0 && removed_[static_cast<std::size_t>(tagger_.tags().find(tag))];
  }
  void keep_of_values();
  [[nodiscard]] const std::optional<Kept>& kept(ValueId id, std::int64_t axis) const;
  [[nodiscard]] bool touched(ValueId id) const { return touched_[index(id)]; }
  [[nodiscard]] std::int64_t left(ValueId id, std::int64_t axis) const;
  [[nodiscard]] at::Tensor reduced(ValueId id, const at::Tensor& layer) const;
  [[nodiscard]] Obstacle obstacle(const Node& node, const std::string& what) const;

  void plan_weights();
  void plan_types();
  std::optional<Obstacle> plan(const Node& node);
  std::optional<Obstacle> plan_sizes(const Node& node, std::size_t position, std::int64_t first_axis);
  std::optional<Obstacle> plan_pieces(const Node& node);
  std::optional<Obstacle> plan_range(const Node& node);
  std::optional<Obstacle> plan_pad(const Node& node);
  std::optional<Obstacle> plan_groups(const Node& node);
  std::optional<Obstacle> check_movement(const Node& node) const;
  [[nodiscard]] std::optional<SymbolicInt> resized(const SymbolicInt& size, std::int64_t full, std::int64_t left) const;
  void set(const Node& node, std::size_t position, Operand operand);

  const Tagger& tagger_;
  const Graph& graph_;
  const std::vector<bool>& removed_;
  std::vector<std::int64_t> dims_;
  std::vector<bool> touched_;                           // by value: loses entries
  std::vector<std::vector<std::optional<Kept>>> kept_;  // by value and axis: only of those touched
  Removal result_;
};

PARE_NAMESPACE_END
