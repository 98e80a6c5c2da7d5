#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Remembers the numbers in a Model's tensors, so that even a pass that writes a tensor in place can be undone.
///
/// Copies are shared with an enclosing backup as long as the tensor is unchanged: nested passes pay for one.
class WeightBackup {
 public:
  /// @param outer a backup that holds copies already; may be null
  explicit WeightBackup(const Model& model, const WeightBackup* outer = nullptr);
  /// The path of a weight of `before` that was written in place since, or an empty string.
  [[nodiscard]] std::string written_in_place(const Model& before) const;
  /// Writes back what changed since.
  void restore(const Model& before) const;

 private:
  struct Entry {
    at::Tensor tensor;  // keeps the key alive
    at::Tensor data;
    std::uint32_t version;
  };
  std::unordered_map<const c10::TensorImpl*, Entry> entries_;
};

/// Undoes what happens to a Model unless it is committed: the graph, the weight table and the numbers in its tensors.
class Transaction {
 public:
  /// @param backup_weights undo tensors written in place too, at the price of a copy of the weights
  /// @param outer          the transaction around this one, or null
  explicit Transaction(Model& model, bool backup_weights = true, const Transaction* outer = nullptr);
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  /// Rolls back when neither `commit()` nor `roll_back()` was called.
  ~Transaction();

  /// The Model as it was at the start.
  [[nodiscard]] const Model& before() const noexcept { return before_; }
  /// Whether the graph was edited since the start.
  [[nodiscard]] bool graph_changed() const;
  /// Whether a tensor of the weight table was replaced, added or removed since the start.
  [[nodiscard]] bool weights_changed() const;
  /// Path of a weight that was written in place instead of replaced, or an empty string: the live module sees that.
  [[nodiscard]] std::string written_in_place() const;
  void commit() noexcept { open_ = false; }
  void roll_back();

 private:
  Model& model_;
  Model before_;
  std::optional<WeightBackup> backup_;
  bool open_ = true;
};

PARE_NAMESPACE_END
