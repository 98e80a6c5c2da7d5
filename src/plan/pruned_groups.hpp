#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "pare/analysis/channel_groups.hpp"
#include "pare/analysis/prefix_replay.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Units that a pruned model lacks, and what its layers read in their place: against the model that it comes from.
class PrunedGroups {
 public:
  /// @throws Error `pare.plan.107` for a weight of another shape than its narrowings say
  PrunedGroups(const Model& whole, const ChannelGroups& groups, const Model& pruned);

  /// Indices of `groups.groups()` that lost units.
  [[nodiscard]] const std::vector<std::size_t>& lost() const noexcept { return lost_; }
  /// How many entries of each axis (path, dim) go with a group.
  [[nodiscard]] std::map<std::pair<std::string, std::int64_t>, std::int64_t> removed(std::size_t group) const;
  /// What the whole model reads when this group alone is pruned: the weights of the group's readers, as the pruned
  /// model has them where it has them, with zeros where units are gone; and their biases.
  [[nodiscard]] Replacements replacements(std::size_t group) const;

 private:
  /// A weight of the pruned model in its old shape, and where it has entries.
  struct Widened {
    at::Tensor values, there;
  };
  [[nodiscard]] Widened widened(const std::string& path) const;
  [[nodiscard]] std::vector<std::int64_t> gone(const ChannelGroup::Slice& slice) const;

  const Model& whole_;
  const ChannelGroups& groups_;
  Model pruned_;
  std::map<std::pair<std::string, std::int64_t>, std::set<std::int64_t>> kept_;  // entries left on narrowed axes
  std::vector<std::size_t> lost_;
};

PARE_NAMESPACE_END
