#pragma once

#include "pare/distill/distillation_batch.hpp"

PARE_NAMESPACE_BEGIN

/// Cross-entropy with the labels: what the student would be trained with alone.
///
/// Labels are integer classes (-100: none), or each class's share in the shape of the output. Errors when called:
/// `pare.distill.106` a training without labels, `.111` labels that are no classes of the student, `.112` `.smoothing`
/// out of range.
struct HardTargets {
  double smoothing = 0.0;  ///< share of the probability spread over all classes, 0 to 1
  std::size_t output = 0;  ///< which output: logits, classes along axis 1

  static constexpr std::string_view kName = "HardTargets";
  at::Tensor operator()(const DistillationBatch& batch) const;
};

PARE_NAMESPACE_END
