#pragma once

#include <string>

#include "pare/execute/compile_options.hpp"
#include "pare/execute/compiled_model.hpp"

PARE_NAMESPACE_BEGIN

/// Compiles a model for this process's CPU.
///
/// Float graphs run in `options.dtype`; between fake-quantize nodes, activations and weights are integers. Batch norms
/// left in the graph are folded, activations and residual sums fused, layouts chosen by oneDNN; what it does not cover
/// runs on ATen. Without oneDNN in the build the whole model runs on ATen, and the report says so. The model is
/// compiled in evaluation mode and is not changed; its weights are copied, but for integers of a mapped file.
///
/// Weights of linear layers and of tables that are rounded in groups of 32 features (16 for more than 4 bits) or a
/// multiple of that, or whose inputs are float (`Quantizer::weight_only`), stay integers in memory, two of 4 bits a
/// byte, and are made numbers while they are multiplied: row by row for up to 8 inputs, in tiles for more.
///
/// @throws Error `pare.execute.101` when an option is out of range or for a layer that the model has not, `.105` for a
///         weight that holds NaN; as `verify`, of a graph that is not well formed
[[nodiscard]] CompiledModel compile(const Model& model, const CompileOptions& options = {});

/// What `compile()` builds on in this process: `oneDNN 3.2.0`, or `ATen`.
[[nodiscard]] std::string execution_backend();

PARE_NAMESPACE_END
