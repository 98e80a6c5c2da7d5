#pragma once

#include <vector>

#include "capture/align.hpp"
#include "pare/capture/capture_options.hpp"

PARE_NAMESPACE_BEGIN

/// The inputs that capture runs a module on: the user's example at every combination of two sizes of each varying dim.
class Samples {
 public:
  /// @throws Error `pare.capture.101` no tensor, `.102` a dim that the example does not have
  Samples(std::vector<at::Tensor> example, const CaptureOptions& options);

  [[nodiscard]] const std::vector<SampledDim>& dims() const noexcept { return dims_; }
  [[nodiscard]] const std::vector<std::int64_t>& example_dims() const noexcept { return example_dims_; }
  [[nodiscard]] std::size_t corners() const noexcept { return std::size_t{1} << dims_.size(); }
  /// Inputs at a corner: bit i says dim i is at its high size.
  [[nodiscard]] std::vector<at::Tensor> at(std::size_t corner) const;
  /// Other values at the batch size given (the first dim; the others at their high sizes).
  [[nodiscard]] std::vector<at::Tensor> fresh(std::int64_t first) const;
  /// Other values at sizes that no corner has, of the dims that are no batch: `steps` times as far beyond the high size
  /// as that is from the low one; 0: the next odd size. Empty when every dim is a batch.
  [[nodiscard]] std::vector<at::Tensor> beyond(std::int64_t steps) const;

 private:
  [[nodiscard]] std::vector<at::Tensor> sized(const std::vector<std::int64_t>& sizes) const;

  std::vector<at::Tensor> example_;
  std::vector<VaryingDim> varying_;
  std::vector<SampledDim> dims_;
  std::vector<bool> is_batch_;
  std::vector<std::int64_t> example_dims_;
};

PARE_NAMESPACE_END
