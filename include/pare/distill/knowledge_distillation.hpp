#pragma once

#include <cstdint>

#include "pare/distill/distillation_batch.hpp"

PARE_NAMESPACE_BEGIN

/// The teacher's softened answers: `softened_divergence` of one output. Hinton et al., 2015.
///
/// Errors when called: `pare.distill.104` outputs of different shapes, `.112` a `.class_dim` that they do not have.
struct KnowledgeDistillation {
  double temperature = 4.0;    ///< positive; higher shows more of what the teacher thinks of wrong classes
  std::int64_t class_dim = 1;  ///< the axis of the classes
  std::size_t output = 0;      ///< which output

  static constexpr std::string_view kName = "KnowledgeDistillation";
  at::Tensor operator()(const DistillationBatch& batch) const;
};

PARE_NAMESPACE_END
