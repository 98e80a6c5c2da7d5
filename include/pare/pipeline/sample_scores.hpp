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

PARE_NAMESPACE_END
