#pragma once

#include <ATen/core/Tensor.h>

#include "pare/analysis/channel_group.hpp"

PARE_NAMESPACE_BEGIN

/// What a criterion sees of a group: one axis of one weight. Row u of each tensor belongs to unit u. Numbers are float,
/// or double where the weight is.
struct SliceView {
  const ChannelGroup::Slice& slice;  ///< which axis of which weight, and on which side of its layer
  at::Tensor weight = {};    ///< `[units, entries]`: the numbers that go with each unit; not for `Need::Squares`
  at::Tensor squares = {};   ///< `[units]`: the sum of their squares, double; only for `Need::Squares`
  at::Tensor gradient = {};  ///< `[units, entries]`, mean over calibration; only for `Need::Gradient`
  at::Tensor squared_gradient = {};  ///< `[units, entries]`, mean of squares; only for `Need::Gradient`
  // Of the activations that the layer reads from each unit: `[units]`, only for inputs of layers and
  // `Need::Activations`; undefined elsewhere.
  at::Tensor activation_square = {};  ///< mean square
  at::Tensor activation_mean = {};    ///< mean magnitude
  at::Tensor activation_zeros = {};   ///< share of zeros
};

/// What a criterion measures with: the numbers of the weights, or no more of them than the sums of their squares, which
/// is quick; gradients or activations besides, which want calibration batches.
enum class Need : unsigned char { Weights, Squares, Gradient, Activations };

PARE_NAMESPACE_END
