#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Where a feature map is active: mean of squares over channels, each sample scaled to unit length.
/// `[N, C, ...]` to `[N, positions]`. Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017.
[[nodiscard]] at::Tensor attention_map(const at::Tensor& features);

/// Distances between samples, divided by their mean: `[N, D]` to `[N, N]`. Park et al., "Relational Knowledge
/// Distillation", 2019.
[[nodiscard]] at::Tensor distance_relation(const at::Tensor& embeddings);

/// Cosines of the angles that samples i and k form at sample j: `[N, D]` to `[N, N, N]`. Park et al., 2019.
[[nodiscard]] at::Tensor angle_relation(const at::Tensor& embeddings);

/// Scaled products of tokens, head by head: `[N, S, W]` twice to `[N, heads, S, S]`, `a b^T / sqrt(W / heads)`.
/// @throws Error `pare.numerics.105` for shapes that do not fit each other or the heads
[[nodiscard]] at::Tensor token_relation(const at::Tensor& a, const at::Tensor& b, std::int64_t heads);

/// How alike two representations of the same samples are, up to rotation and scale: linear centred kernel alignment,
/// 0 to 1. Kornblith et al., "Similarity of Neural Network Representations Revisited", 2019.
/// @param a,b `[samples, features]`, features may differ in number
/// @throws Error `pare.numerics.105` for numbers of samples that differ
[[nodiscard]] double linear_alignment(const at::Tensor& a, const at::Tensor& b);

PARE_NAMESPACE_END
