#pragma once

#include "pare/distill/attention_paths.hpp"
#include "pare/distill/layer_map.hpp"

PARE_NAMESPACE_BEGIN

/// Relations between the tokens of one layer: the divergences of query-query, key-key and value-value attention. Widths
/// need not agree. Wang et al., "MiniLMv2: Multi-Head Self-Attention Relation Distillation", 2021.
///
///     pare::MiniLm{.layers = {"encoder.layer.2", "encoder.layer.5"}, .attention = {.heads = 12, .mask = 1}}
///
/// `attention.heads` is the number of relation heads; it must divide the widths of both and need not be their number of
/// heads. Errors: `pare.distill.102`, `.103`, `.104` as `Hints`; `pare.numerics.105` heads that do not divide the
/// width.
struct MiniLm {
  LayerMap layers = {};  ///< the paper: the last of the student, and a late one of the teacher
  AttentionPaths attention = {};

  static constexpr std::string_view kName = "MiniLm";
  void request(FeatureRequest& request);
  void prepare(const DistillationBatch& example) { layers.choose(example); }
  at::Tensor operator()(const DistillationBatch& batch) const;
};

PARE_NAMESPACE_END
