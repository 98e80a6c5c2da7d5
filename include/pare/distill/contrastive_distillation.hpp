#pragma once

#include <cstdint>

#include "pare/distill/projector.hpp"

PARE_NAMESPACE_BEGIN

/// The student's embedding of a sample shall be told from all others of the batch by the teacher's embedding of it
/// (`contrastive_divergence`), both through learned projectors. After Tian et al., "Contrastive Representation
/// Distillation", 2020, with the batch in place of the paper's memory bank: it wants batches of 64 and more.
///
/// Samples of the same class are no wrong answers where there are labels. Maps and tokens are averaged over their
/// positions. Errors: `pare.distill.102`, `.103` as `Hints`, `.112` `.width` out of range.
struct ContrastiveDistillation {
  LayerMap layers = {};      ///< empty: the first outputs
  std::int64_t width = 128;  ///< of the space in which they are compared
  double temperature = 0.1;  ///< positive
  bool use_labels = true;    ///< where the training has any
  std::uint64_t seed = 0;    ///< of the projectors' first weights

  std::vector<Projector> projectors = {};  ///< two for each pair, student's first; made by `prepare`

  static constexpr std::string_view kName = "ContrastiveDistillation";
  void request(FeatureRequest& request) { layers.request(request); }
  void prepare(const DistillationBatch& example);
  [[nodiscard]] std::vector<at::Tensor> parameters() const { return parameters_of(projectors); }
  at::Tensor operator()(const DistillationBatch& batch) const;
};

PARE_NAMESPACE_END
