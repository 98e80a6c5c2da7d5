#pragma once

#include "pare/distill/layer_map.hpp"

PARE_NAMESPACE_BEGIN

/// Where feature maps are active, whatever their channels: mean square difference of `attention_map`s, times the number
/// of positions. Zagoruyko and Komodakis, 2017.
///
/// Maps of different sizes are averaged down to the smaller. Errors: `pare.distill.102`, `.103` as `Hints`, `.104` for
/// features without positions.
struct AttentionTransfer {
  LayerMap layers = {};

  static constexpr std::string_view kName = "AttentionTransfer";
  void request(FeatureRequest& request) { layers.request(request); }
  void prepare(const DistillationBatch& example) { layers.choose(example); }
  at::Tensor operator()(const DistillationBatch& batch) const;
};

PARE_NAMESPACE_END
