#pragma once

#include "pare/core/batches.hpp"
#include "pare/graph/model.hpp"
#include "pare/plan/plan.hpp"

PARE_NAMESPACE_BEGIN

/// The model as a plan makes it, in its structure alone: what is quantized, and where integers and floats meet. Weights
/// are rounded to nearest and ranges are those of one batch, so it takes about two runs of the model; its answers are
/// of no use. For `PlanLatencyOptions::realize`, where only kernels and sizes count.
///
/// A plan without integer layers gives the model itself.
/// @param model  float
/// @param inputs one batch, small; it stands for no data
/// @throws Error as `Quantizer`
[[nodiscard]] Model sketch(const Model& model, const Plan& plan, const Batch& inputs);

PARE_NAMESPACE_END
