#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pare/analysis/channel_groups.hpp"
#include "pare/core/batches.hpp"
#include "pare/graph/rewriter.hpp"
#include "selection.hpp"

PARE_NAMESPACE_BEGIN

class CommitTrial;

/// Which units of a group go.
struct Choice {
  const ChannelGroup* group;
  std::vector<std::int64_t> units;
};

/// What goes from a model, and what has to be edited for it.
struct Pruning {
  std::vector<Choice> choices;
  Removal removal;
};

/// Decides what goes from one model. Every decision is tried before it is believed: a group that does not verify is
/// frozen, and the choice is made again.
class Chooser {
 public:
  /// @param inputs  to try models on; empty: made up in the captured sizes
  /// @param trial   a live module that has to follow; may be null
  Chooser(const Model& model, const ChannelGroups& groups, std::vector<RankedGroup> candidates, Batch inputs,
          CommitTrial* trial = nullptr);

  /// @throws Error `pare.prune.105`, `.106`, `.108`
  [[nodiscard]] Pruning choose(const PruningSettings& settings);

  struct Declined {
    const ChannelGroup* group;
    std::string reason;
  };
  /// The groups that did not verify.
  [[nodiscard]] const std::vector<Declined>& declined() const noexcept { return declined_; }
  /// What models are tried on.
  [[nodiscard]] const Batch& inputs() const noexcept { return inputs_; }

 private:
  [[nodiscard]] std::optional<Removal> plan(const std::vector<std::int64_t>& units, std::string& why) const;
  [[nodiscard]] bool checked(Removal& removal) const;
  [[nodiscard]] bool has_shapes(const Removal& removal) const;

  const Model& model_;
  const ChannelGroups& groups_;
  SizeModel sizes_;
  std::vector<RankedGroup> candidates_;
  Batch inputs_;
  CommitTrial* trial_;
  std::vector<Declined> declined_;
};

/// @throws Error `pare.prune.105` when a group that stays whole was named in `group_ratios`
void refuse_named(const PruningSettings& settings, const ChannelGroup& group, std::string_view why);

/// Inputs in the captured sizes: ones, and zeros where indices are wanted.
Batch made_up_inputs(const Model& model);

/// Makes the edits.
void apply_removal(Rewriter& rewriter, const Removal& removal);

PARE_NAMESPACE_END
