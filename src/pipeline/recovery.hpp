#pragma once

#include <string>

#include "pare/pass/apply.hpp"
#include "pare/pipeline/auto_training.hpp"

PARE_NAMESPACE_BEGIN

/// What both trainings need to know.
struct Lesson {
  const AutoTraining& how;
  const Model& teacher;
  ContextOptions context;       ///< calibration, seed, log, progress
  std::string checkpoint = {};  ///< of `taught`; empty: none
};

/// @throws Error `pare.pipeline.101` for options out of range or data without a batch
void validate_training(const AutoTraining& training);

/// A float model, trained to answer as its teacher does. Resumes from the checkpoint where it is there.
/// @throws Error as `fit`
Applied taught(Model model, const Lesson& lesson);

/// The int8 model of a float one, trained with its rounding.
/// @throws Error `pare.pipeline.109` when the loss is not a number, `pare.distill.125` when it is no scalar or does not
///         depend on what is trained; and as `QuantizationAwareTraining`
Applied trained_quantized(const Model& model, const Lesson& lesson);

PARE_NAMESPACE_END
