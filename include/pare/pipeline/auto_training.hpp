#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "pare/distill/fit_options.hpp"
#include "pare/distill/training_data.hpp"

PARE_NAMESPACE_BEGIN

/// How far a student is from its teacher on one batch: a scalar.
/// @param labels what the batch holds beyond the inputs
using ImitationLoss = std::function<at::Tensor(const std::vector<at::Tensor>& student,
                                               const std::vector<at::Tensor>& teacher, const Batch& labels)>;

/// With what, and how, `optimize` trains a network that calibration alone cannot make small enough. The teacher is the
/// captured model.
struct AutoTraining {
  TrainingData data = {};  ///< inputs, then labels where the loss wants any; none: nothing is trained
  /// How the pruned float network is trained. `judge`, `checkpoint`, `seed`, `log` and `progress` are set by
  /// `optimize`.
  FitOptions fit = {};
  /// Empty: the sum over the outputs of the softened divergence from the teacher's (`softened_divergence`, temperature
  /// 4) where one is `[N, classes]`, else of the mean square difference by the teacher's variance.
  ImitationLoss loss = {};
  std::int64_t quantized_epochs = 2;  ///< of quantization-aware training; 0: none
  double quantized_rate = 1e-4;       ///< of AdamW there, at its start; it falls to 0 along a cosine
};

PARE_NAMESPACE_END
