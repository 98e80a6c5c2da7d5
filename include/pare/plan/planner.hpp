#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pare/plan/plan.hpp"

PARE_NAMESPACE_BEGIN

/// One thing that may be done to a layer, with what it costs.
struct PlanChoice {
  Bits weights = {8};
  double damage = 0;        ///< of the model's outputs, this layer alone
  std::uint64_t bytes = 0;  ///< stored
  double latency_ms = 0;
  double macs = 0;
};

/// A layer and its choices.
struct PlanChoices {
  std::string layer;
  std::int64_t entries = 0;  ///< weights in it
  std::vector<PlanChoice> choices;
};

/// What a plan has to keep; unset: no limit.
struct PlanLimits {
  std::optional<double> average_bits = {};  ///< of a weight, over the planned layers
  std::optional<std::uint64_t> bytes = {};  ///< of the whole model, stored
  std::optional<double> latency_ms = {};    ///< of the whole model
  std::optional<double> macs = {};          ///< multiply-accumulates of the planned layers
  std::optional<double> damage = {};        ///< the sum over layers; the smallest plan within it is sought
};

/// Chooses for each layer so that the sum of damages is least and every limit is kept: an exact multiple-choice
/// knapsack (`Knapsack`). With a limit on the damage, the fewest bytes instead.
///
/// That damages add up is a model; `mixed_precision` verifies and refines it.
class Planner {
 public:
  /// @param bytes,latency_ms of everything that is not planned
  /// @throws Error `pare.plan.102` without layers, for a layer without choices, or numbers that are none (with the
  ///         layer)
  explicit Planner(std::vector<PlanChoices> layers, std::uint64_t bytes = 0, double latency_ms = 0);

  /// Empty when no plan keeps the limits: `binding()` then says which cannot be kept.
  /// @throws Error `pare.plan.103` for limits that are not positive numbers
  [[nodiscard]] std::optional<Plan> plan(const PlanLimits& limits) const;
  /// The limits that not even the smallest choices keep, in words; empty when each can be kept on its own.
  [[nodiscard]] std::string binding(const PlanLimits& limits) const;
  /// Plans of least damage at `count` sizes, evenly spread from the smallest to the largest possible.
  [[nodiscard]] std::vector<Plan> front(std::size_t count) const;

  [[nodiscard]] std::uint64_t bytes(const Plan& plan) const;
  [[nodiscard]] double latency_ms(const Plan& plan) const;
  [[nodiscard]] const std::vector<PlanChoices>& layers() const noexcept { return layers_; }

 private:
  [[nodiscard]] const PlanChoice& choice(std::size_t layer, Bits bits) const;
  std::vector<PlanChoices> layers_;
  std::uint64_t bytes_;
  double latency_ms_;
};

PARE_NAMESPACE_END
