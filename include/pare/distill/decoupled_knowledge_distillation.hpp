#pragma once

#include "pare/distill/distillation_batch.hpp"

PARE_NAMESPACE_BEGIN

/// The teacher's softened answers, with weights of their own for the target class and for what is said of the others
/// (`decoupled_divergence`): a teacher that is sure of the target hides the others no more. Zhao et al., 2022.
///
/// Without labels the teacher's own choice is the target. Errors when called: `pare.distill.104` outputs of different
/// shapes, `.111` labels that are no classes of the student.
struct DecoupledKnowledgeDistillation {
  double target_weight = 1.0;  ///< the paper's alpha
  double others_weight = 8.0;  ///< the paper's beta
  double temperature = 4.0;    ///< positive
  std::size_t output = 0;      ///< which output, `[N, classes]`

  static constexpr std::string_view kName = "DecoupledKnowledgeDistillation";
  at::Tensor operator()(const DistillationBatch& batch) const;
};

PARE_NAMESPACE_END
