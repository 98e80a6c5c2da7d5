#pragma once

#include <cstdint>
#include <string>

#include "pare/plan/plan.hpp"
#include "pare/plan/planner.hpp"

PARE_NAMESPACE_BEGIN

/// A plan, evaluated.
struct PlanPoint {
  std::string name;  ///< `uniform int4`, `planned`, `refined 1`, `front 2`
  Plan plan;
  double predicted = 0;     ///< loss, by the additive model
  double loss = 0;          ///< measured with all layers together
  std::uint64_t bytes = 0;  ///< stored (`WeightStorage`)
  double latency_ms = 0;    ///< predicted (`PlanLatency`), of a joint plan measured; 0 without anything to find it with
  double macs = 0;          ///< of one sample, of a joint plan (`joint_plan`)

  /// How many times what is allowed it takes, of the limit on bits, bytes, time or multiply-accumulates that it passes
  /// most; at most 1 within all of them, 0 where there is none.
  [[nodiscard]] double excess(const PlanLimits& limits) const;
  /// The limits that it passes, in words: `119776 bytes, 100000 allowed`; empty within all of them.
  [[nodiscard]] std::string shortfall(const PlanLimits& limits) const;
};

PARE_NAMESPACE_END
