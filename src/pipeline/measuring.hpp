#pragma once

#include <cstdint>

#include "pare/core/batches.hpp"
#include "pare/core/progress.hpp"
#include "pare/execute/compile.hpp"
#include "pare/graph/model.hpp"
#include "pare/pipeline/budget.hpp"
#include "pare/pipeline/metric.hpp"

PARE_NAMESPACE_BEGIN

// What pipelines measure with. Models must outlive their predictors.

Predictor predictor(const Model& model);
Predictor predictor(const CompiledModel& model);

/// Progress that ends the run by an error as soon as `cancelled` says so: passes count what they do, and wherever they
/// do, a run can end. @throws Error `pare.pipeline.105` from the task, naming it
Progress cancellable(const Progress& progress, const std::function<bool()>& cancelled);

/// Bytes of the weight table; tensors that are shared count once.
std::uint64_t bytes_of(const Model& model);

/// One sample of the calibration data unless `example` is given: what a single request looks like. The first batch as
/// it is where its first entries are no sample: sizes are fixed, or the batch is not dimension 0 alone.
///
/// The model is run on it, so that an example that does not fit is refused before hours of work.
/// @pre the model is in evaluation mode
/// @throws Error `pare.pipeline.102` when there is neither; as `Model::run`
Batch example_of(const Model& model, const Batch& example, const Batches& calibration);

/// @param judged whether there is something to judge by
/// @throws Error `pare.pipeline.101` for limits that are not positive, or a drop that nothing judges
void validate_budget(const Budget& budget, bool judged, double seconds);

PARE_NAMESPACE_END
