#include "pare/numerics/batch_norm_folding.hpp"

#include <ATen/ATen.h>

#include <vector>

PARE_NAMESPACE_BEGIN

namespace {

at::Tensor in_double(const at::Tensor& tensor) { return tensor.defined() ? tensor.to(at::kDouble) : tensor; }

}  // namespace

ChannelAffine batch_norm_affine(const at::Tensor& gamma, const at::Tensor& beta, const at::Tensor& mean,
                                const at::Tensor& variance, double eps) {
  auto scale = (in_double(variance) + eps).rsqrt();
  if (gamma.defined()) scale = scale * in_double(gamma);
  return {scale, in_double(mean), in_double(beta)};
}

at::Tensor scale_output_channels(const at::Tensor& weight, const at::Tensor& scale, std::int64_t axis,
                                 std::int64_t groups) {
  const auto numbers = in_double(weight);
  if (groups == 1 || axis == 0) {
    std::vector<std::int64_t> shape(static_cast<std::size_t>(weight.dim()), 1);
    shape[static_cast<std::size_t>(axis)] = scale.numel();
    return numbers * scale.reshape(shape);
  }
  auto split = weight.sizes().vec();
  split[0] /= groups;
  split.insert(split.begin(), groups);  // [groups, in / groups, out / groups, ...]
  std::vector<std::int64_t> shape(split.size(), 1);
  shape[0] = groups;
  shape[2] = weight.size(1);
  return (numbers.reshape(split) * scale.reshape(shape)).reshape(weight.sizes());
}

at::Tensor fold_weight(const at::Tensor& weight, const ChannelAffine& norm, std::int64_t axis, std::int64_t groups) {
  return scale_output_channels(weight, norm.scale, axis, groups).to(weight.scalar_type());
}

at::Tensor fold_bias(const at::Tensor& bias, const ChannelAffine& norm, c10::ScalarType dtype) {
  auto folded = (bias.defined() ? in_double(bias) - norm.mean : -norm.mean) * norm.scale;
  if (norm.beta.defined()) folded = folded + norm.beta;
  return folded.to(dtype);
}

PARE_NAMESPACE_END
