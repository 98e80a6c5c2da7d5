#pragma once

#include <optional>
#include <string>
#include <vector>

#include "capture/align.hpp"
#include "capture/recorder.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// A Model and where each call of the evaluation trace went in it.
struct Assembled {
  Model model;
  std::vector<NodeId> nodes;  ///< by call of the evaluation trace
};

/// Merges the evaluation and the training trace into one graph: arguments that differ become the training flag, calls
/// that only one mode makes run in that mode, values that differ are selected.
/// @param training null: evaluation only
/// @throws Error `pare.capture.151` when the two modes cannot be merged
Assembled assemble(const SymbolicTrace& evaluation, const SymbolicTrace* training, const std::vector<SampledDim>& dims,
                   const std::vector<std::int64_t>& example_dims, const std::vector<std::string>& input_names,
                   const ModuleTensors& tensors);

PARE_NAMESPACE_END
