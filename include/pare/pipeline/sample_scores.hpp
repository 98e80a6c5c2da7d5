#pragma once

#include "pare/graph/model.hpp"
#include "pare/pipeline/metric.hpp"

PARE_NAMESPACE_BEGIN

/// How good a network is on each sample: `[samples]`, larger is better; the mean is the metric. Called with different
/// predictors, on data that it holds itself, always the same samples in the same order.
using SampleScores = std::function<at::Tensor(const Predictor& predict)>;

/// 1 where the first output is largest at the label, else 0. @param labels `[samples]` int64 classes
/// @throws Error `pare.pipeline.104` from the scores, when there are not as many samples as labels
[[nodiscard]] SampleScores top1_scores(Batches inputs, at::Tensor labels);

/// 1 where the first output is largest at the class that `original` finds, else 0: needs no labels. A network that
/// agrees on all but a share of the samples has lost at most that share of its accuracy.
[[nodiscard]] SampleScores agreement_scores(Batches inputs, const Model& original);

/// For samples that are few and have no labels: 1 less what a network is expected to lose on each, as far as the noise
/// in its outputs tells.
///
/// Whether one of few samples changes its class is chance. How far outputs moved against each other is known from every
/// sample, and how far the second class lies behind the first: it is taken to overtake as often as the movements of all
/// samples (among their five likeliest classes) are larger than that distance, in the right direction half of the time.
/// Distances of the nearest third of the samples are evened out. An overtaken answer costs the difference of the two
/// probabilities that the original gives, and half beside: so much more than the original believes may be lost among
/// answers that change. A class outside of those five that comes first counts as it is.
/// @param original outputs of `[samples, classes]`: logits, or probabilities, or their logarithms
/// @throws Error `pare.pipeline.104` for other outputs, or none
[[nodiscard]] SampleScores expected_scores(Batches inputs, const Model& original);

PARE_NAMESPACE_END
