#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What a batch norm multiplies and adds in evaluation mode: `y = scale * x + shift`, both `[channels]` double.
struct ChannelAffine {
  at::Tensor scale;  ///< `gamma / sqrt(variance + eps)`
  at::Tensor mean;   ///< of the running statistics
  at::Tensor beta;   ///< undefined: none
};

/// @param gamma,beta may be undefined
[[nodiscard]] ChannelAffine batch_norm_affine(const at::Tensor& gamma, const at::Tensor& beta, const at::Tensor& mean,
                                              const at::Tensor& variance, double eps);

/// `scale * weight` along the output channels, in double. A transposed convolution (axis 1) has its channels inside
/// groups of its input channels. Differentiable.
[[nodiscard]] at::Tensor scale_output_channels(const at::Tensor& weight, const at::Tensor& scale, std::int64_t axis,
                                               std::int64_t groups);

/// The weight that has the batch norm's factor in it, in the dtype of `weight`. Differentiable.
[[nodiscard]] at::Tensor fold_weight(const at::Tensor& weight, const ChannelAffine& norm, std::int64_t axis,
                                     std::int64_t groups);

/// `beta + scale * (bias - mean)`, in `dtype`. @param bias may be undefined. Differentiable.
[[nodiscard]] at::Tensor fold_bias(const at::Tensor& bias, const ChannelAffine& norm, c10::ScalarType dtype);

PARE_NAMESPACE_END
