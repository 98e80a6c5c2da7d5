#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "examples/data/input_format.hpp"
#include "pare/checkpoint/safetensors.hpp"

namespace models {

using Tensors = std::vector<torch::Tensor>;

/// A model of the zoo with its type erased: tensors in, tensors out.
struct Bundle {
  std::string name;
  std::string task;                                ///< classification, segmentation, language, ...
  std::shared_ptr<torch::nn::Module> module;       ///< random weights, in training mode as LibTorch leaves it
  std::function<Tensors(const Tensors&)> forward;  ///< runs `module`; user structs come back as their tensors in order
  std::function<Tensors(int64_t batch)> example;   ///< random inputs of the right shapes and dtypes
  data::InputFormat input;                         ///< how files become inputs
  pare::LoadOptions load = {};                     ///< for `pare::load_weights`: names that files need not have
};

/// Names that `make` knows, less `data_dependent`, whose forward no recording can stand for.
std::vector<std::string> names();

/// Builds a model with random weights. Throws pare.data.101 for a name that it does not know.
Bundle make(const std::string& name);

/// Brings the running statistics of every batch norm to those of a few random batches, so that a network with random
/// weights neither dies out nor blows up in evaluation mode. Other state is left alone.
void settle(Bundle& bundle, int64_t batches = 2, int64_t batch = 4);

}  // namespace models
