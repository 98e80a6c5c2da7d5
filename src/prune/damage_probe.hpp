#pragma once

#include "graph/frontier.hpp"
#include "prune/sparse_layer.hpp"

PARE_NAMESPACE_BEGIN

/// What other weights of one layer do to the model's outputs: the squared error over the squared outputs, on the first
/// calibration samples. (A divergence of classes would say nothing where the model is sure of them:
/// docs/design/sparsity.md.)
///
/// Layers are asked about in the order of execution; what runs in front of one runs once.
class DamageProbe {
 public:
  /// @throws Error `pare.prune.203` for outputs that are NaN or infinite, or no samples
  DamageProbe(const Model& model, const std::vector<Batch>& batches, std::int64_t samples);

  /// @param rows the layer's weight, `[rows, features]`
  [[nodiscard]] double operator()(const SparseLayer& layer, const at::Tensor& rows);

 private:
  const Model& model_;
  Frontier dense_;
  std::vector<std::vector<at::Tensor>> reference_;
};

PARE_NAMESPACE_END
