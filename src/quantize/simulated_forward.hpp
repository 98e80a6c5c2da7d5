#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "pare/capture/interceptor.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// What follows a module's own forward and rounds the arguments of its calls.
class SimulatedForward : public Interceptor {
 public:
  /// Lets calls of backward passes and of Models by and hands the others to `forward_call`.
  void call(const c10::OperatorHandle& op, torch::jit::Stack& stack) final;
  virtual void forward_call(const c10::OperatorHandle& op, torch::jit::Stack& stack) = 0;
  [[nodiscard]] virtual std::vector<std::pair<std::string, at::Tensor>> range_parameters() const = 0;
  [[nodiscard]] virtual std::map<std::string, at::Tensor> state() const = 0;
  virtual void load_state(const std::map<std::string, at::Tensor>& state) = 0;
};

PARE_NAMESPACE_END
