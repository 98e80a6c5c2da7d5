#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pare/analysis/channel_group.hpp"
#include "pare/analysis/removal.hpp"
#include "pare/graph/model.hpp"
#include "pare/pass/preserved.hpp"

PARE_NAMESPACE_BEGIN

class Tagger;

/// Which channels of a model depend on which, found by running its own ops on tags.
///
/// Ops that only move elements are run on integers that name the channel each element comes from, so views, chunks and
/// shuffles need no rule; elementwise ops unite the tags that meet; convolutions, products, norms, attention and
/// recurrent layers have a rule each. Before a group is called prunable, half of its units are removed on tags: a
/// constant that no other number could replace freezes the group, and is named.
///
/// Costs one walk over the graph on tensors that hold one number a channel.
class ChannelGroups {
 public:
  static constexpr auto kDependsOn = Aspect::Structure | Aspect::Ops;

  explicit ChannelGroups(const Model& model);
  ~ChannelGroups();
  ChannelGroups(ChannelGroups&&) noexcept;
  ChannelGroups& operator=(ChannelGroups&&) noexcept;

  /// Every group that touches a parameter, in the order of the layers: prunable and frozen ones.
  [[nodiscard]] const std::vector<ChannelGroup>& groups() const noexcept { return groups_; }
  /// The group of this name. @throws Error `pare.analysis.101` when there is none
  [[nodiscard]] const ChannelGroup& group(std::string_view name) const;

  /// What to edit so that these units are gone (`ChannelGroup::units`).
  /// @throws Error `pare.analysis.102` a unit that does not exist or is frozen, `.103` a constant cannot follow; the
  ///         message names it
  [[nodiscard]] Removal removal(std::span<const std::int64_t> units) const;

  /// The unit that each entry along an axis of a value belongs to; -1 where none can be removed; empty: the whole axis
  /// is free of channels.
  [[nodiscard]] std::vector<std::int64_t> units_along(ValueId value, std::int64_t axis) const;

 private:
  void collect();

  std::unique_ptr<Tagger> tagger_;
  std::vector<ChannelGroup> groups_;
};

PARE_NAMESPACE_END
