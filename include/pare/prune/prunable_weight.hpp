#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What a criterion sees of a layer whose weights are to be pruned one by one: the layer as a matrix product,
/// `outputs = weight * inputs`. Convolutions are unfolded: a feature is one tap of one input channel.
struct PrunableWeight {
  std::string layer;        ///< its name, as reports have it
  std::string path;         ///< of the weight, e.g. `layer1.0.conv1.weight`
  at::Tensor weight;        ///< `[rows, features]` float; zero where pruned already
  at::Tensor mask;          ///< like `weight`, bool: what is not pruned yet
  std::int64_t groups = 1;  ///< rows are divided into so many groups, each with inputs of its own

  /// `E[x x^T]` of the inputs, `[groups, features, features]` double; where the criterion says `kNeedsInputs`.
  at::Tensor second_moment = {};
  /// `[H^-1]_pp` over the weights that are left, like `weight`: how little the others can make up for weight p (`H` is
  /// the second moment). With `kNeedsInputs`.
  at::Tensor inverse_diagonal = {};
  /// Mean gradient of the loss, like `weight`; where the criterion says `kNeedsGradients`.
  at::Tensor gradient = {};
  /// Brings a tensor in the shape that the weight has in the weight table into rows.
  std::function<at::Tensor(const at::Tensor&)> to_rows = {};
};

PARE_NAMESPACE_END
