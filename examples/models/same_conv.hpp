#pragma once

#include <torch/torch.h>

#include <algorithm>

namespace models {

/// Convolution with TensorFlow's SAME padding: as many outputs as `ceil(input / stride)`. At stride 2 the padding may
/// be one more below and right than above and left; then the input is padded first.
class SameConv2dImpl : public torch::nn::Conv2dImpl {
 public:
  explicit SameConv2dImpl(const torch::nn::Conv2dOptions& options) : Conv2dImpl(options) {}
  SameConv2dImpl(int64_t in, int64_t out, int64_t kernel, int64_t stride = 1, int64_t groups = 1, bool bias = false)
      : Conv2dImpl(torch::nn::Conv2dOptions(in, out, kernel).stride(stride).groups(groups).bias(bias)) {}

  torch::Tensor forward(torch::Tensor x) {
    const int64_t down = padding(x.size(2), 0);
    const int64_t right = padding(x.size(3), 1);
    if (down % 2 == 0 && right % 2 == 0) {
      return torch::conv2d(x, weight, bias, options.stride(), {down / 2, right / 2}, options.dilation(),
                           options.groups());
    }
    x = torch::nn::functional::pad(
        x, torch::nn::functional::PadFuncOptions({right / 2, right - right / 2, down / 2, down - down / 2}));
    return torch::conv2d(x, weight, bias, options.stride(), at::IntArrayRef{0, 0}, options.dilation(),
                         options.groups());
  }

 private:
  int64_t padding(int64_t size, size_t axis) const {
    const int64_t kernel = options.kernel_size()->at(axis);
    const int64_t stride = options.stride()->at(axis);
    const int64_t outputs = (size + stride - 1) / stride;
    return std::max<int64_t>((outputs - 1) * stride + kernel - size, 0);
  }
};
TORCH_MODULE(SameConv2d);

}  // namespace models
