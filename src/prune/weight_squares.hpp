#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <future>
#include <map>
#include <string>

#include "pare/analysis/channel_group.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Sums of squares of weights along both of their axes that channels lie on, in one pass over memory for each weight.
class WeightSquares {
 public:
  WeightSquares() = default;
  /// Begins with all weights on a thread of its own, where the caller may use more than one: reading them waits for
  /// memory, while finding groups is one thread's work and stays in the cache.
  explicit WeightSquares(const Model& model);

  /// The sum over each unit's entries of the weight that the slice is of. @return `[units]`, double, on the CPU
  at::Tensor of_units(const at::Tensor& weight, const ChannelGroup::Slice& slice);

 private:
  using Sums = std::map<std::string, std::array<at::Tensor, 2>>;  // of each weight, by axis

  std::future<Sums> ahead_;
  Sums known_;
};

PARE_NAMESPACE_END
