#pragma once

#include <vector>

#include "pare/capture/capture.hpp"

PARE_NAMESPACE_BEGIN

/// What a Model remembers of its capture: enough to run the module's own forward on fresh values and to say where it
/// departs from the Model.
struct Origin {
  ModuleForward forward;
  std::vector<at::Tensor> example;
  CaptureOptions options;
  Graph graph;                ///< as captured, before any pass
  std::vector<NodeId> nodes;  ///< where each call of the evaluation trace went
};

PARE_NAMESPACE_END
