#pragma once

#include <string_view>

#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// Folds batch norms into the convolution or linear layer in front of them.
///
/// Before: `batch_norm(conv(x, W, b), mean, var, gamma, beta, eps)`; after: `conv(x, W', b')` with
///
///     s  = gamma / sqrt(var + eps)
///     W' = s * W            along the output channels
///     b' = beta + s * (b - mean)
///
/// computed in double. Convolutions, transposed convolutions and linear layers of any rank and any groups.
///
/// Preconditions: the batch norm is the only user of the layer, uses its running statistics, and the weights are not
/// shared with another layer; otherwise it declines. The result is an inference model: trained on, it keeps the
/// statistics it was folded with.
class FoldBatchNorm {
 public:
  static constexpr std::string_view kName = "FoldBatchNorm";
  Preserved run(Model& model, Context& context);
};

PARE_NAMESPACE_END
