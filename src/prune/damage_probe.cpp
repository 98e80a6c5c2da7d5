#include "prune/damage_probe.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "prune/check_outputs.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using BatchOutputs = std::vector<std::vector<at::Tensor>>;

double damage_between(const BatchOutputs& before, const BatchOutputs& after) {
  double error = 0, scale = 0;
  for (std::size_t b = 0; b < before.size(); ++b)
    for (std::size_t i = 0; i < before[b].size(); ++i) {
      const auto& reference = before[b][i];
      if (!reference.defined() || !reference.is_floating_point()) continue;
      error += (reference - after[b][i]).to(at::kDouble).square().sum().item<double>();
      scale += reference.to(at::kDouble).square().sum().item<double>();
    }
  const double damage = error / std::max(scale, 1e-30);
  return std::isfinite(damage) ? damage : std::numeric_limits<double>::max();
}

std::vector<Batch> first_samples(const std::vector<Batch>& batches, std::int64_t samples) {
  std::vector<Batch> first;
  std::int64_t taken = 0;
  for (const auto& batch : batches) {
    if (taken >= samples) break;
    first.push_back(batch);
    for (const auto& tensor : batch)
      if (tensor.defined() && tensor.dim() > 0) {
        taken += tensor.size(0);
        break;
      }
  }
  return first;
}

}  // namespace

DamageProbe::DamageProbe(const Model& model, const std::vector<Batch>& batches, std::int64_t samples)
    : model_(model), dense_(model, first_samples(batches, samples)), reference_(Frontier(dense_).finish(model)) {
  check_outputs("pare.prune.203", reference_);
}

double DamageProbe::operator()(const SparseLayer& layer, const at::Tensor& rows) {
  dense_.advance(model_, layer.region.anchor);
  Model changed = model_;
  changed.set_weight(layer.path, layer.from_rows(rows, model_.weight(layer.path).sizes()));
  Frontier ahead(dense_);
  ahead.repeat(changed, layer.region.weight_nodes);
  return damage_between(reference_, ahead.finish(changed));
}

PARE_NAMESPACE_END
