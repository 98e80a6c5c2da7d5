#include "pare/analysis/output_loss.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "core/samples_of.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// Calls `visit(expected, actual)` for each pair of floating outputs.
template <class Visit>
void each_pair(const BatchOutputs& expected, const BatchOutputs& actual, const Visit& visit) {
  if (expected.size() != actual.size())
    fail("pare.analysis.105", "", "outputs of {} batches are compared with those of {}", actual.size(),
         expected.size());
  for (std::size_t b = 0; b < expected.size(); ++b)
    for (std::size_t i = 0; i < std::min(expected[b].size(), actual[b].size()); ++i) {
      const auto &x = expected[b][i], &y = actual[b][i];
      if (!x.defined() || !x.is_floating_point()) continue;
      if (!y.defined() || x.sizes() != y.sizes())
        fail("pare.analysis.105", "", "output {} has another shape than expected", i);
      visit(x, y);
    }
}

// The axis along which an output has its classes; none for a number of the whole batch.
std::optional<std::int64_t> class_axis(const at::Tensor& output) {
  if (output.dim() == 0) return std::nullopt;
  if (output.dim() == 1)
    fail("pare.analysis.105", "", "an output of [{}] has no classes: `noise_against` compares numbers", output.size(0));
  return output.dim() >= 4 ? 1 : output.dim() - 1;
}

}  // namespace

OutputLoss divergence_from(BatchOutputs expected) {
  return [expected = std::move(expected)](const BatchOutputs& outputs) {
    const at::NoGradGuard no_grad;
    double sum = 0, samples = 0;
    each_pair(expected, outputs, [&](const at::Tensor& x, const at::Tensor& y) {
      const auto axis = class_axis(x);
      if (!axis || x.numel() == 0) return;
      const auto p = at::log_softmax(x.to(at::kDouble), *axis), q = at::log_softmax(y.to(at::kDouble), *axis);
      sum += (p.exp() * (p - q)).sum().item<double>() / static_cast<double>(x.numel() / x.size(*axis) / x.size(0));
    });
    for (const auto& batch : expected) samples += static_cast<double>(samples_of(batch));
    return samples > 0 ? sum / samples : 0.0;
  };
}

OutputLoss noise_against(BatchOutputs expected) {
  return [expected = std::move(expected)](const BatchOutputs& outputs) {
    const at::NoGradGuard no_grad;
    double noise = 0, signal = 0;
    each_pair(expected, outputs, [&](const at::Tensor& x, const at::Tensor& y) {
      const auto reference = x.to(at::kDouble);
      noise += (reference - y.to(at::kDouble)).square().sum().item<double>();
      signal += reference.square().sum().item<double>();
    });
    return signal > 0 ? noise / signal : noise;
  };
}

PARE_NAMESPACE_END
