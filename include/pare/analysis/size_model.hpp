#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pare/analysis/channel_groups.hpp"

PARE_NAMESPACE_BEGIN

/// What a model costs as a function of which channels it has: each layer's multiply-accumulates, each weight's entries
/// as a product of counts along axes. Removing a unit updates the counts, so that a search can try many; a copy has
/// counts of its own and shares all else.
class SizeModel {
 public:
  /// What is counted.
  enum class Quantity : std::uint8_t { Macs, Parameters, Bytes };

  SizeModel(const Model& model, const ChannelGroups& groups);

  [[nodiscard]] double total(Quantity quantity) const;
  /// What goes with these units, beside what is gone already.
  [[nodiscard]] double gain(std::span<const std::int64_t> units, Quantity quantity);
  void remove(std::span<const std::int64_t> units) { change(units, -1); }
  void restore(std::span<const std::int64_t> units) { change(units, 1); }
  /// The smallest number of entries left on an axis of a weight that the unit takes up, were it removed.
  [[nodiscard]] std::int64_t least_left(std::int64_t unit) const;

 private:
  struct Structure;
  class Builder;

  void change(std::span<const std::int64_t> units, std::int64_t sign);
  /// The product of a term's counts as they are.
  [[nodiscard]] double value(std::size_t term) const;

  std::shared_ptr<const Structure> structure_;
  std::vector<std::int64_t> counts_;  ///< entries left along each axis that can shrink
};

PARE_NAMESPACE_END
