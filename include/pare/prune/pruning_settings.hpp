#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pare/capture/live_module.hpp"
#include "pare/core/literals.hpp"
#include "pare/pass/context.hpp"
#include "pare/prune/any_importance.hpp"

PARE_NAMESPACE_BEGIN

/// Which units compete with each other.
enum class Scope : std::uint8_t {
  Automatic,   ///< `Budgeted` for `LeastSquares`, else `PerGroup`
  PerGroup,    ///< every group loses the same share
  Global,      ///< all units by their normalized scores
  Isomorphic,  ///< as `Global` among groups of the same make-up (Fang et al., "Isomorphic Pruning", 2024)
  Budgeted,    ///< all units by score for each unit of the budget that they free
};

/// How the scores of a group's slices become one: `[slices, units]` to `[units]`.
using Aggregation = std::function<at::Tensor(const at::Tensor&)>;

/// The scalar that gradients are taken of, from the model's outputs on one calibration batch.
using ImportanceLoss = std::function<at::Tensor(const std::vector<at::Tensor>& outputs, const Batch& inputs)>;

/// What `Pruner` was told, with its policies behind one type.
struct PruningSettings {
  AnyImportance importance;
  Aggregation aggregation;
  ImportanceLoss loss;
  std::optional<Ratio> ratio, macs, parameters, bytes, latency;
  std::vector<std::pair<std::string, Ratio>> group_ratios;
  int latency_threads = 0;
  Batch latency_inputs;
  Scope scope = Scope::Automatic;
  std::int64_t min_channels = 1;
  std::int64_t round_to = 1;
  Ratio max_ratio;
  std::vector<std::string> keep;
  bool reconstruct = true;
  bool recalibrate = true;
  std::int64_t max_features = 0;
  double ridge = 0;
  LiveModule commit_to;
};

/// @throws Error `pare.prune.101`, `.102`
void validate_pruning(const PruningSettings& settings);

/// Prunes a model as the settings say: the body of `Pruner::run`, compiled once for all policies.
Preserved prune(Model& model, Context& context, const PruningSettings& settings);

PARE_NAMESPACE_END
