#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "pare/core/literals.hpp"
#include "pare/numerics/sparsity_pattern.hpp"
#include "pare/pass/context.hpp"
#include "pare/prune/any_weight_importance.hpp"

PARE_NAMESPACE_BEGIN

/// How the zeros are divided among the layers.
enum class SparsityAllocation : std::uint8_t {
  Uniform,   ///< every layer the same share
  Global,    ///< the smallest saliencies of the whole model; sensible where the criterion compares across layers
  Measured,  ///< by what each layer's share does to the model's outputs, measured on the calibration data
};

/// A loss for criteria that need gradients. @param batch position of the calibration batch, to find its labels
using PruningLoss = std::function<at::Tensor(const std::vector<at::Tensor>& outputs, std::size_t batch)>;

/// What `Sparsifier` was told, with its policy behind one type.
struct SparsitySettings {
  AnyWeightImportance importance;
  Ratio sparsity;
  SparsityPattern pattern;
  SparsityAllocation allocation;
  bool update_weights;
  std::vector<std::string> keep_dense;
  PruningLoss loss;
  std::int64_t max_features;
  std::int64_t probe_samples;
};

/// @throws Error `pare.prune.201` when an option is out of range
void validate_sparsity(const SparsitySettings& settings);

/// The body of `Sparsifier::run`, compiled once for all policies.
Preserved sparsify(Model& model, Context& context, const SparsitySettings& settings);

PARE_NAMESPACE_END
