#include "layer_samples.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "pare/graph/weight_axis.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::int64_t kRowsOfBatch = 64, kRows = 1024, kScoredChannels = 512;

}  // namespace

void RowSamples::add(const at::Tensor& sequence) {
  if (static_cast<std::int64_t>(rows_.size()) * kRowsOfBatch >= kRows) return;
  const auto rows = sequence.detach().flatten(0, -2);
  const auto step = std::max<std::int64_t>(1, rows.size(0) / kRowsOfBatch);
  rows_.push_back(rows.slice(0, step / 2, rows.size(0), step).slice(0, 0, kRowsOfBatch).clone());
}

at::Tensor RowSamples::rows() const { return at::cat(rows_).to(at::kFloat); }

at::Tensor stacked_weights(const Model& model, const std::vector<FusedRegion>& layers) {
  std::vector<at::Tensor> all;
  for (const auto& layer : layers) {
    const auto weight = model.weight(layer.weight).detach().to(at::kFloat);
    all.push_back(*output_axis(model.graph(), layer) == 0 ? weight : weight.t());
  }
  return at::cat(all);
}

at::Tensor scored_channels(const at::Tensor& weights) {
  return weights.slice(0, 0, weights.size(0), (weights.size(0) + kScoredChannels - 1) / kScoredChannels);
}

PARE_NAMESPACE_END
