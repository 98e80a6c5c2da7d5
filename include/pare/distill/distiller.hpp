#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pare/distill/any_distillation_loss.hpp"
#include "pare/distill/fit.hpp"
#include "pare/distill/knowledge_distillation.hpp"
#include "pare/distill/network.hpp"
#include "pare/distill/teacher_cache.hpp"
#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// Trains a Model to answer as its teacher does.
///
///     pare::Distiller{.teacher = teacher, .training = batches}
///     pare::Distiller{.teacher = teacher,
///                     .loss = pare::KnowledgeDistillation{.temperature = 4.0} + pare::Hints{{"layer3", "layer3"}},
///                     .training = pare::TrainingData::shuffled({images, labels}, 64),
///                     .fit = {.epochs = 3, .rate = 5e-4}}
///
/// Before: a Model, pruned, quantized (its scales stay, its weights move) or with fewer layers. After: the same graph
/// on other numbers; the Model has tensors of its own, so that neither the live module nor the teacher moves with it.
/// Without training data the calibration batches are trained on, which have no labels.
///
/// Errors: `pare.distill.101` no teacher, and whatever `Distillation` and `fit` throw; the Model is then what it was.
struct Distiller {
  Network teacher = {};
  AnyDistillationLoss loss = KnowledgeDistillation{};
  TrainingData training = {};  ///< inputs, then labels where a loss wants them
  FitOptions fit = {};
  std::vector<std::string> freeze = {};  ///< weights that are not trained: paths or patterns with `*` and `?`
  TeacherCache cache = {};               ///< the teacher's answers in a file; its samples may be left to `training`

  static constexpr std::string_view kName = "Distiller";

  /// @throws Error `pare.distill.101`, `.120`
  void validate() const;
  Preserved run(Model& model, Context& context);
};

PARE_NAMESPACE_END
