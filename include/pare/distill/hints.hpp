#pragma once

#include <cstdint>

#include "pare/distill/projector.hpp"

PARE_NAMESPACE_BEGIN

/// The student's features, through a learned projector where widths differ, against the teacher's: mean square error.
/// Romero et al., "FitNets: Hints for Thin Deep Nets", 2015.
///
///     pare::Hints{{"layer3", "layer3"}}
///     pare::Hints{.layers = pare::LayerMap::uniform("encoder.layer", "encoder.layer"), .normalize = true}
///
/// Features are `[N, C]`, `[N, tokens, C]` or `[N, C, ...]`; feature maps of different sizes are averaged down to the
/// smaller. Errors: `pare.distill.102` an unknown path, `.103` a stack without layers, `.104` features that no
/// projector can match.
struct Hints {
  LayerMap layers = {};
  bool normalize = false;       ///< divide by the variance of the teacher's features: one weight fits all layers
  bool always_project = false;  ///< a projector even where the shapes agree
  std::uint64_t seed = 0;       ///< of the projectors' first weights

  std::vector<Projector> projectors = {};  ///< one for each pair; made by `prepare`

  static constexpr std::string_view kName = "Hints";
  void request(FeatureRequest& request) { layers.request(request); }
  void prepare(const DistillationBatch& example);
  [[nodiscard]] std::vector<at::Tensor> parameters() const { return parameters_of(projectors); }
  at::Tensor operator()(const DistillationBatch& batch) const;
};

PARE_NAMESPACE_END
