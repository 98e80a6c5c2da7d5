#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "pare/graph/fusion.hpp"

PARE_NAMESPACE_BEGIN

/// A layer as a matrix product: `output[group] = weight[group] * features[group]`.
struct MatrixForm {
  std::int64_t groups = 1;
  std::int64_t outputs = 0;   ///< in a group
  std::int64_t features = 0;  ///< in a group
  std::int64_t axis = 0;      ///< output channels in the table's weight
  // Convolutions; empty for linear layers.
  std::vector<std::int64_t> kernel, stride, padding, dilation;
};

/// The form of a region, or nothing where it has none: computed padding, transposed convolutions, embeddings.
std::optional<MatrixForm> matrix_form(const Graph& graph, const FusedRegion& region);

/// The features of an input, `[groups, samples, features]`, float32 for convolutions: at most about `limit` samples,
/// evenly spread over positions.
at::Tensor features_of(const MatrixForm& form, const at::Tensor& input, std::int64_t limit);

/// The layer's outputs at the positions that `features_of` samples, `[samples, outputs]`; for layers in one group.
at::Tensor outputs_of(const MatrixForm& form, const at::Tensor& output, std::int64_t limit);

/// The table's weight as `[groups * outputs, features]`, and back.
at::Tensor to_rows(const MatrixForm& form, const at::Tensor& weight);
at::Tensor from_rows(const MatrixForm& form, const at::Tensor& rows, at::IntArrayRef sizes);

PARE_NAMESPACE_END
