#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "pare/core/batches.hpp"

PARE_NAMESPACE_BEGIN

/// Anything that maps the inputs of one forward to its outputs: a Model, a CompiledModel, a module's forward.
using Predictor = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs)>;

/// How good a network is: larger is better, a share of 1 where it is an accuracy. Called with different predictors, on
/// data that it holds itself; it must give the same number for the same predictor.
using Metric = std::function<double(const Predictor& predict)>;

/// Share of samples whose first output is largest at the label.
/// @param inputs batches, samples along the first axis
/// @param labels `[samples]` int64 classes, in the order of the batches
/// @throws Error `pare.pipeline.104` from the metric, when there are not as many samples as labels
[[nodiscard]] Metric top1(Batches inputs, at::Tensor labels);

PARE_NAMESPACE_END
