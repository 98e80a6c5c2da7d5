#pragma once

#include <functional>

#include "pare/capture/capture.hpp"

namespace torch::optim {
class OptimizerParamState;
}

PARE_NAMESPACE_BEGIN

/// How `commit` checks and what it cannot know by itself.
struct CommitOptions {
  /// Largest difference allowed between the module's outputs and the Model's, relative to the largest output. The two
  /// make the same calls on the same numbers, so this only has to cover other orders of summation.
  double tolerance = 1e-5;
  /// The module's forward, where it is not the one that was captured.
  ModuleForward forward = {};
  /// The inputs to check on, where they are not to be like the captured example.
  std::vector<at::Tensor> example = {};
  /// Makes an optimizer's own kind of state fit: calls `narrow` on every tensor that has the parameter's shape and puts
  /// the result in its place. @return false for a kind it does not know. LibTorch's own optimizers need none.
  std::function<bool(torch::optim::OptimizerParamState& state,
                     const std::function<at::Tensor(const at::Tensor&)>& narrow)>
      remap_state = {};
};

PARE_NAMESPACE_END
