#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <map>
#include <string>

#include "pare/analysis/channel_group.hpp"

PARE_NAMESPACE_BEGIN

/// Sums of squares of weights along both of their axes that channels lie on, in one pass over memory for each weight.
class WeightSquares {
 public:
  /// The sum over each unit's entries of the weight that the slice is of. @return `[units]`, double, on the CPU
  at::Tensor of_units(const at::Tensor& weight, const ChannelGroup::Slice& slice);

 private:
  std::map<std::string, std::array<at::Tensor, 2>> known_;  // of each weight, by axis
};

PARE_NAMESPACE_END
