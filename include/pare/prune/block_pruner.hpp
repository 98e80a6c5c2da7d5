#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pare/core/literals.hpp"
#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// Drops whole residual branches: the blocks of a ResNet, the attention or feed-forward halves of a transformer's
/// layers.
///
///     pare::BlockPruner{.ratio = 50_pct}               // BERT of 12 layers: half of its 24 branches
///     pare::BlockPruner{.ratio = 25_pct, .keep = {"layer1.*"}}
///
/// Before: `y = x + f(x)` where both summands have one shape. After: `y = x`, and what only f needed is gone from the
/// graph and from the weight table. Branches go one by one, each time the one whose absence changes the model's outputs
/// on the calibration data least (squared difference), so that the effect of those that are gone already is seen.
///
/// Errors: `pare.pass.102` no calibration, `pare.prune.101` a ratio of nothing or everything, `.103` calibration
/// batches without samples, or on which the model's outputs are NaN or infinite, `.104` a `keep` pattern that fits no
/// layer, `.109` the model has no residual branches that could go.
struct BlockPruner {
  Ratio ratio = {0.25};  ///< branches to drop, of all that could go; rounded to the nearest, at least one
  std::vector<std::string> keep =
      {};  ///< layers whose branches stay: names, module paths, or patterns with `*` and `?`

  static constexpr std::string_view kName = "BlockPruner";

  /// @throws Error `pare.prune.101`
  void validate() const;
  Preserved run(Model& model, Context& context);
};

PARE_NAMESPACE_END
