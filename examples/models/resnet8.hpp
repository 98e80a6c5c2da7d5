#pragma once

#include <torch/torch.h>

#include "examples/models/same_conv.hpp"

namespace models {

/// The image classifier of MLPerf Tiny: three residual stacks, SAME padding, parameters under Keras's layer names.
/// `[N, 3, 32, 32]` with pixels of 0..255 -> `[N, 10]`.
class ResNet8Impl : public torch::nn::Module {
 public:
  explicit ResNet8Impl(int64_t classes = 10)
      : conv0(conv("conv2d", 3, 16, 3, 1)),
        conv1(conv("conv2d_1", 16, 16, 3, 1)),
        conv2(conv("conv2d_2", 16, 16, 3, 1)),
        conv3(conv("conv2d_3", 16, 32, 3, 2)),
        conv4(conv("conv2d_4", 32, 32, 3, 1)),
        conv5(conv("conv2d_5", 16, 32, 1, 2)),
        conv6(conv("conv2d_6", 32, 64, 3, 2)),
        conv7(conv("conv2d_7", 64, 64, 3, 1)),
        conv8(conv("conv2d_8", 32, 64, 1, 2)),
        bn0(norm("batch_normalization", 16)),
        bn1(norm("batch_normalization_1", 16)),
        bn2(norm("batch_normalization_2", 16)),
        bn3(norm("batch_normalization_3", 32)),
        bn4(norm("batch_normalization_4", 32)),
        bn5(norm("batch_normalization_5", 64)),
        bn6(norm("batch_normalization_6", 64)),
        dense(register_module("dense", torch::nn::Linear(64, classes))) {}

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(bn0(conv0(x)));
    auto y = torch::relu(bn1(conv1(x)));
    x = torch::relu(x + bn2(conv2(y)));
    y = torch::relu(bn3(conv3(x)));
    x = torch::relu(conv5(x) + bn4(conv4(y)));
    y = torch::relu(bn5(conv6(x)));
    x = torch::relu(conv8(x) + bn6(conv7(y)));
    x = torch::avg_pool2d(x, 8);
    return dense(torch::flatten(x, 1));
  }

 private:
  SameConv2d conv(const char* name, int64_t in, int64_t out, int64_t kernel, int64_t stride) {
    auto layer = SameConv2d(in, out, kernel, stride, 1, true);
    torch::nn::init::kaiming_normal_(layer->weight);
    torch::nn::init::zeros_(layer->bias);
    return register_module(name, layer);
  }
  torch::nn::BatchNorm2d norm(const char* name, int64_t channels) {
    return register_module(name, torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(channels).eps(1e-3)));
  }

  SameConv2d conv0, conv1, conv2, conv3, conv4, conv5, conv6, conv7, conv8;
  torch::nn::BatchNorm2d bn0, bn1, bn2, bn3, bn4, bn5, bn6;
  torch::nn::Linear dense;
};
TORCH_MODULE(ResNet8);

}  // namespace models
