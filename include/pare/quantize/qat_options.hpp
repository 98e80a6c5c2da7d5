#pragma once

#include <cstdint>
#include <limits>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// How a range of quantization is found while the model trains.
enum class RangeTraining : std::uint8_t {
  /// Observed: a moving average of each batch's extent for activations (Jacob et al., 2018), the weight observer's
  /// choice at every step for weights.
  Observed,
  /// The scale is a parameter (LSQ: Esser et al., "Learned Step Size Quantization", 2020).
  LearnedStep,
  /// Scale and zero point are parameters (LSQ+: Bhalgat et al., 2020). Where the grid is symmetric the zero point
  /// stays 0.
  LearnedStepAndOffset,
  /// The largest value is a parameter that learns from what saturates (PACT: Choi et al., 2018). For activations.
  LearnedClip,
};

/// How quantization-aware training goes about its ranges, batch norms and averages. Steps are forwards in training
/// mode.
struct QatOptions {
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

  RangeTraining weights = RangeTraining::LearnedStep;  ///< `Observed` or `LearnedStep`
  RangeTraining activations = RangeTraining::LearnedStep;
  double momentum = 0.01;  ///< of observed ranges: weight of the newest batch, in (0, 1]
  std::int64_t delay = 0;  ///< steps before activations are rounded; observers watch from the first step
  std::int64_t freeze_ranges_after = kNever;      ///< steps after which observed ranges stay
  std::int64_t freeze_batch_norm_after = kNever;  ///< steps after which batch norms keep their statistics
  /// Of the exponential moving average of all parameters, in [0, 1): `average += (1 - decay) * (parameter - average)`
  /// at every step that changed them; 0: none is kept.
  double average_decay = 0.0;
};

PARE_NAMESPACE_END
