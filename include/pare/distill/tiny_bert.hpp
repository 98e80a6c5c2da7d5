#pragma once

#include "pare/distill/attention_paths.hpp"
#include "pare/distill/projector.hpp"

PARE_NAMESPACE_BEGIN

/// Hidden states and attention scores of transformer layers: mean square errors, the hidden states through a learned
/// projector where widths differ. Jiao et al., "TinyBERT", 2020.
///
///     pare::TinyBert{.layers = pare::LayerMap::uniform("encoder.layer", "encoder.layer"), .attention = {.mask = 1}}
///
/// Scores are computed from the projections of query and key, so it does not matter how a network runs its attention.
/// Errors: `pare.distill.102`, `.103`, `.104` as `Hints`; `pare.numerics.105` heads that do not divide the width.
struct TinyBert {
  LayerMap layers = {};
  AttentionPaths attention = {};
  double hidden_weight = 1.0;
  double attention_weight = 1.0;  ///< 0: hidden states alone, and the paths of `attention` are not looked at
  std::uint64_t seed = 0;         ///< of the projectors' first weights

  std::vector<Projector> projectors = {};  ///< one for each pair; made by `prepare`

  static constexpr std::string_view kName = "TinyBert";
  void request(FeatureRequest& request);
  void prepare(const DistillationBatch& example);
  [[nodiscard]] std::vector<at::Tensor> parameters() const { return parameters_of(projectors); }
  at::Tensor operator()(const DistillationBatch& batch) const;
};

PARE_NAMESPACE_END
