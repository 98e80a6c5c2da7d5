#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

/// What a network gave for one batch: its outputs, and the features that were asked for.
struct Observation {
  std::vector<at::Tensor> outputs = {};                          ///< flat; floating-point ones as float32 at least
  std::map<std::string, at::Tensor, std::less<>> features = {};  ///< path → what that module produced last

  /// @throws Error `pare.distill.104` when the network has no such output
  [[nodiscard]] const at::Tensor& output(std::size_t position = 0) const {
    if (position >= outputs.size() || !outputs[position].defined())
      fail("pare.distill.104", "", "the loss reads output {} of a network that has {}", position, outputs.size());
    return outputs[position];
  }
  /// @throws Error `pare.distill.105` when the feature was not computed, or not seen, in this forward
  [[nodiscard]] const at::Tensor& feature(std::string_view path) const {
    const auto found = features.find(path);
    if (found == features.end() || !found->second.defined())
      fail("pare.distill.105", path,
           "the forward did not come by here, or nobody watched it: run it while Distillation::watch() is in scope");
    return found->second;
  }
};

PARE_NAMESPACE_END
