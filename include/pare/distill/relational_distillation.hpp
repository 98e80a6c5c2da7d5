#pragma once

#include "pare/distill/layer_map.hpp"

PARE_NAMESPACE_BEGIN

/// How the samples of a batch lie to each other: their distances and angles, by the Huber loss. Widths need not agree.
/// Park et al., "Relational Knowledge Distillation", 2019.
///
/// Memory grows with the cube of the batch while `angle` is not 0. Errors: `pare.distill.102`, `.103` as `Hints`,
/// `.112` both weights 0.
struct RelationalDistillation {
  LayerMap layers = {};    ///< empty: the first outputs
  double distance = 25.0;  ///< weight of the distances
  double angle = 50.0;     ///< weight of the angles

  static constexpr std::string_view kName = "RelationalDistillation";
  void request(FeatureRequest& request) { layers.request(request); }
  void prepare(const DistillationBatch& example) { layers.choose(example); }
  at::Tensor operator()(const DistillationBatch& batch) const;
};

PARE_NAMESPACE_END
