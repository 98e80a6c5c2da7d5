#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "features.hpp"

PARE_NAMESPACE_BEGIN

/// Every how many positions along each of `dims` axes one is taken, so that about `limit` remain.
std::int64_t sample_stride(std::int64_t positions, std::int64_t limit, std::size_t dims);

/// Windows of a convolution at some of its positions. Only these are copied, in one pass: an input has far more
/// positions than are wanted of it.
class SampledWindows {
 public:
  /// @param form of a convolution
  /// @param input `[N, channels, ...]`, wherever it is and whatever its strides; kept
  /// @param limit about so many samples at most, evenly spread over positions
  SampledWindows(const MatrixForm& form, const at::Tensor& input, std::int64_t limit);

  /// The windows of groups `[first, first + count)`, `[count, samples, features]` float32 on the processor. By all
  /// threads, or on several at once.
  [[nodiscard]] at::Tensor of_groups(std::int64_t first, std::int64_t count) const;

 private:
  void append_axis(const MatrixForm& form, std::size_t axis, std::int64_t step);
  void find_runs();
  void copy(const float* from, std::size_t position, float* row) const;

  at::Tensor input_;
  std::int64_t channels_;              // of a group
  std::size_t taps_ = 1;               // of a channel's window
  std::size_t run_;                    // taps in a row of the kernel
  std::vector<std::int64_t> offsets_;  // [positions, taps], in elements from a channel's first
  std::vector<bool> in_runs_;          // by position: whether the taps of each row are neighbours
};

PARE_NAMESPACE_END
