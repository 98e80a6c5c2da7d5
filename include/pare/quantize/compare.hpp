#pragma once

#include <functional>
#include <string>
#include <vector>

#include "pare/core/batches.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// How far a layer of one model is from the layer of the same name of another.
struct LayerDifference {
  std::string layer;     ///< node name, or `output` and its number
  double sqnr_db = 0.0;  ///< `10 log10(sum a^2 / sum (a - b)^2)` over all batches; infinite when equal
  double cosine = 1.0;   ///< of the angle between all values of one and of the other
};

/// Runs anything that shows its values as it runs: `Model::run`, `CompiledModel::run`, a function of one's own.
using Runner = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs, const Tap& tap)>;

/// Compares two models layer by layer over the batches: float against simulated, simulated against compiled.
///
/// Layers are matched by name; a layer that is quantized at its output is compared behind its fake-quantize, one that a
/// batch norm was folded into behind that. Equalization scales what lies between layers, and shows as that. Layers that
/// only one of the models has, or whose results have other shapes, are left out. Model outputs come last. Memory
/// is that of one batch.
[[nodiscard]] std::vector<LayerDifference> compare(const Model& reference, const Model& other, const Batches& batches);

/// The same where `other` is run by `run` and its tap speaks in the values of `values`' graph: e.g.
/// `compare(simulated, simulated, [&](auto& in, auto& tap) { return compiled.run(in, tap); }, batches)`.
[[nodiscard]] std::vector<LayerDifference> compare(const Model& reference, const Model& values, const Runner& run,
                                                   const Batches& batches);

PARE_NAMESPACE_END
