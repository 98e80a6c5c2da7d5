#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "pare/analysis/channel_groups.hpp"

PARE_NAMESPACE_BEGIN

/// What a model costs as a function of which channels it has: each layer's multiply-accumulates, each weight's entries
/// as a product of counts along axes. Removing a unit updates the counts, so that a search can try many.
class SizeModel {
 public:
  /// What is counted.
  enum class Quantity : std::uint8_t { Macs, Parameters, Bytes };

  SizeModel(const Model& model, const ChannelGroups& groups);

  [[nodiscard]] double total(Quantity quantity) const;
  /// What goes with these units, beside what is gone already.
  [[nodiscard]] double gain(const std::vector<std::int64_t>& units, Quantity quantity);
  void remove(const std::vector<std::int64_t>& units) { change(units, -1); }
  void restore(const std::vector<std::int64_t>& units) { change(units, 1); }
  /// The smallest number of entries left on an axis of a weight that the unit takes up, were it removed.
  [[nodiscard]] std::int64_t least_left(std::int64_t unit) const;

 private:
  struct Factor {
    std::int64_t count = 0;
    bool of_weight = false;
    std::vector<std::size_t> terms;
  };
  struct Term {
    double constant = 0;
    Quantity quantity = Quantity::Macs;
    std::vector<std::size_t> factors;
  };
  struct Share {
    std::size_t factor;
    std::int64_t entries;
  };

  std::size_t factor(const ChannelGroups& groups, ValueId value, std::int64_t axis, bool of_weight);
  void add(const ChannelGroups& groups, const std::vector<std::pair<ValueId, std::int64_t>>& axes, double constant,
           Quantity quantity, bool of_weight);
  void add_node(const Model& model, const ChannelGroups& groups, const Node& node);
  void change(const std::vector<std::int64_t>& units, std::int64_t sign);
  [[nodiscard]] double value(const Term& term) const;

  std::vector<std::int64_t> dims_;
  const Graph* graph_ = nullptr;  // while being built
  std::vector<Factor> factors_;
  std::vector<Term> terms_;
  std::unordered_map<std::uint64_t, std::size_t> known_;                // factor of (value, axis)
  using Shares = std::unordered_map<std::int64_t, std::vector<Share>>;  // of each unit
  std::shared_ptr<Shares> shares_ = std::make_shared<Shares>();  // complete once built: copies differ in counts alone
};

PARE_NAMESPACE_END
