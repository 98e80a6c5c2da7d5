#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// `T^2 * KL(softmax(teacher / T) || softmax(student / T))`: summed over classes, averaged over the rest. The factor
/// keeps gradients of one size whatever the temperature. Hinton et al., "Distilling the Knowledge in a Neural Network",
/// 2015.
/// @param student,teacher logits of one shape, classes along `class_dim`
/// @throws Error `pare.numerics.105` for shapes that differ, `.126` for a temperature that is not positive
[[nodiscard]] at::Tensor softened_divergence(const at::Tensor& student, const at::Tensor& teacher, double temperature,
                                             std::int64_t class_dim = 1);

/// The same divergence in its two parts, each with a weight of its own: target class against all others, and among the
/// others. `softened_divergence` is the first plus the second times the teacher's probability of the others, sample by
/// sample. Zhao et al., "Decoupled Knowledge Distillation", 2022.
/// @param student,teacher `[N, classes]` logits
/// @param targets         `[N]` int64 classes
/// @throws Error `pare.numerics.105`, `.126`
[[nodiscard]] at::Tensor decoupled_divergence(const at::Tensor& student, const at::Tensor& teacher,
                                              const at::Tensor& targets, double target_weight, double others_weight,
                                              double temperature);

/// Cross-entropy of finding each row of `a` among the rows of `b` by cosine similarity, and the reverse, averaged: 0
/// when every row is nearest to its own partner by far, `log N` when all are alike. With `labels`, other rows of the
/// same class are no wrong answers. van den Oord et al., "Representation Learning with Contrastive Predictive Coding",
/// 2018.
/// @param a,b    `[N, D]` embeddings
/// @param labels `[N]` int64 classes, or undefined
/// @throws Error `pare.numerics.105`, `.126`
[[nodiscard]] at::Tensor contrastive_divergence(const at::Tensor& a, const at::Tensor& b, double temperature,
                                                const at::Tensor& labels = {});

PARE_NAMESPACE_END
