#pragma once

#include <string_view>

#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// Writes attention out as its two products, so that each can be quantized and its probabilities with them.
///
/// Before: `scaled_dot_product_attention(q, k, v, mask, 0, causal=false, scale)`; after:
///
///     p = softmax(matmul(q, k^T) * scale + mask),    matmul(p, v)
///
/// with `scale = 1 / sqrt(q.size(-1))` unless given. Boolean masks become -inf where they are false; queries that see
/// no key get zeros, as from the op.
///
/// Preconditions: no dropout in evaluation, not causal, no grouped queries, as many queries as keys and values in the
/// leading dims; otherwise it declines.
class DecomposeAttention {
 public:
  static constexpr std::string_view kName = "DecomposeAttention";
  Preserved run(Model& model, Context& context);
};

PARE_NAMESPACE_END
