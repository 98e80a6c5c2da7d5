#pragma once

#include <torch/nn/module.h>

#include <utility>
#include <vector>

#include "capture/recorder.hpp"

PARE_NAMESPACE_BEGIN

/// What a capture must leave as it found it: training flags, buffers, what else a forward writes to, the random state.
/// Puts them back at the end.
class ModuleState {
 public:
  explicit ModuleState(torch::nn::Module& module);
  ~ModuleState();
  ModuleState(const ModuleState&) = delete;
  ModuleState& operator=(const ModuleState&) = delete;

  void set_training(bool on) { module_.train(on); }
  /// Another tensor to put back to what it holds now: a parameter, or one that the module never registered.
  void remember(const at::Tensor& tensor);
  /// Whether there are any besides the buffers.
  [[nodiscard]] bool remembers_more() const { return saved_.size() > buffers_; }
  /// Puts back the tensors that a run wrote, and the random state.
  void restore();
  /// The same random numbers for the module and its replay.
  void seed() const;

 private:
  struct Saved {
    at::Tensor tensor;
    at::Tensor memory;  // its own sizes and storage, whatever the tensor is resized or set to
    at::Tensor copy;
  };
  torch::nn::Module& module_;
  std::vector<std::pair<torch::nn::Module*, bool>> flags_;
  std::vector<Saved> saved_;
  std::size_t buffers_ = 0;                                // of those
  std::vector<std::pair<at::Device, at::Tensor>> random_;  // of each device that the module is on
};

/// The module's parameters and buffers, each tensor once.
ModuleTensors module_tensors(torch::nn::Module& module);

PARE_NAMESPACE_END
