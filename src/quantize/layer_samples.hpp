#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <vector>

#include "pare/graph/fusion.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Rows of a sequence, evenly spread: a few of each batch, until there are enough to judge a layer's results by.
class RowSamples {
 public:
  /// @param sequence `[..., features]`
  void add(const at::Tensor& sequence);
  [[nodiscard]] bool empty() const noexcept { return rows_.empty(); }
  /// `[n, features]` float. @pre not empty
  [[nodiscard]] at::Tensor rows() const;

 private:
  std::vector<at::Tensor> rows_;
};

/// The weights of linear layers that read the same value, one under the other: `[output channels, features]` float.
/// @pre every region is a linear one with an `output_axis`
at::Tensor stacked_weights(const Model& model, const std::vector<FusedRegion>& layers);

/// As many rows of stacked weights, evenly spread, as it takes to rank choices by a layer's error.
at::Tensor scored_channels(const at::Tensor& weights);

PARE_NAMESPACE_END
