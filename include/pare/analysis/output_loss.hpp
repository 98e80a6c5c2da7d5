#pragma once

#include <functional>

#include "pare/analysis/prefix_replay.hpp"

PARE_NAMESPACE_BEGIN

/// How bad outputs are, larger is worse: anything of one's own, or one of those below. Called with the outputs of all
/// batches, in order.
using OutputLoss = std::function<double(const BatchOutputs& outputs)>;

/// `KL(softmax(expected) || softmax(outputs))` in nats, the mean over samples, summed over the model's floating
/// outputs; classes along the last axis of `[..., classes]`, along the second of `[batch, classes, ...]` with four axes
/// or more. A number of the whole batch is passed over.
/// @throws Error `pare.analysis.105` from the loss, for outputs that cannot be compared, or of one axis: they have no
///         classes
[[nodiscard]] OutputLoss divergence_from(BatchOutputs expected);

/// `sum (expected - outputs)^2 / sum expected^2` over all floating outputs: the inverse of the SQNR, so that the noise
/// of several layers adds up. For models whose outputs are no classes.
[[nodiscard]] OutputLoss noise_against(BatchOutputs expected);

PARE_NAMESPACE_END
