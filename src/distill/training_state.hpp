#pragma once

#include <torch/optim/optimizer.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "pare/distill/fit.hpp"

PARE_NAMESPACE_BEGIN

/// Where a training stands, beside its tensors.
struct TrainingPlace {
  std::int64_t step = 0;      ///< optimizer steps made
  std::int64_t epoch = 0;     ///< finished epochs
  std::int64_t position = 0;  ///< batches of the epoch used
  std::int64_t epoch_batches = 0;
  double epoch_loss = 0;  ///< sum over the epoch's batches so far
  std::int64_t without_gain = 0;
  bool over = false;
  FitResult result = {};
};

/// Everything that a training's future depends on.
struct TrainingState {
  Model& model;
  torch::optim::Optimizer& optimizer;
  std::vector<at::Tensor> trained;              ///< what the optimizer moves
  std::vector<at::Tensor> also;                 ///< of these, what is not the model's
  std::map<std::string, at::Tensor> best = {};  ///< weights of the best judged epoch, by path
  at::Tensor epoch_random = {};                 ///< random state at the start of the epoch, before its order is drawn
  TrainingPlace place = {};
  std::string fingerprint;  ///< of what must not change between the parts of one training
};

/// Writes the state and LibTorch's random state; the file is replaced whole.
void save_training(const std::string& path, const TrainingState& state);
/// Reads it back in place. @return false when there is no file. @throws Error `pare.distill.132`, `.133`
bool load_training(const std::string& path, TrainingState& state, at::Tensor& random_state);

/// Whether the state can be written at all is known before the first step. @throws Error `pare.checkpoint.121`
void require_writable(const std::string& path);

/// LibTorch's random state on the CPU, and putting it back.
at::Tensor random_state();
void set_random_state(const at::Tensor& state);

/// Copies of all numbers of a Model, by path; and back in place.
std::map<std::string, at::Tensor> numbers_of(const Model& model);
void put_back(const Model& model, const std::map<std::string, at::Tensor>& numbers);

PARE_NAMESPACE_END
