#pragma once

#include "pare/core/batches.hpp"
#include "pare/distill/observation.hpp"

PARE_NAMESPACE_BEGIN

/// What a loss sees: one batch through both networks.
struct DistillationBatch {
  Batch inputs = {};
  Observation student = {};
  Observation teacher = {};  ///< without gradients
  at::Tensor targets = {};   ///< the labels; undefined where the training has none

  /// @throws Error `pare.distill.106` when the training has no labels
  [[nodiscard]] const at::Tensor& labels() const {
    if (!targets.defined())
      fail("pare.distill.106", "", "this loss wants labels: give them behind the inputs of each training batch");
    return targets;
  }
};

PARE_NAMESPACE_END
