#pragma once

#include <torch/torch.h>

namespace models {

/// Squeeze 1x1, then 1x1 and 3x3 side by side.
class FireImpl : public torch::nn::Module {
 public:
  FireImpl(int64_t in, int64_t squeeze, int64_t expand)
      : squeeze1x1(register_module("squeeze1x1", torch::nn::Conv2d(in, squeeze, 1))),
        expand1x1(register_module("expand1x1", torch::nn::Conv2d(squeeze, expand, 1))),
        expand3x3(
            register_module("expand3x3", torch::nn::Conv2d(torch::nn::Conv2dOptions(squeeze, expand, 3).padding(1)))) {}

  torch::Tensor forward(torch::Tensor x) {
    x = squeeze1x1(x).relu_();
    return torch::cat({expand1x1(x).relu_(), expand3x3(x).relu_()}, 1);
  }

 private:
  torch::nn::Conv2d squeeze1x1, expand1x1, expand3x3;
};
TORCH_MODULE(Fire);

/// SqueezeNet 1.1 (Iandola et al. 2016) as Caffe computes it: no padding at conv1, ceil-mode pools, padding at conv10.
/// `[N, 3, 227, 227]` -> `[N, classes]`.
class SqueezeNetImpl : public torch::nn::Module {
 public:
  explicit SqueezeNetImpl(int64_t classes = 1000)
      : conv1(register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 64, 3).stride(2)))),
        fire2(register_module("fire2", Fire(64, 16, 64))),
        fire3(register_module("fire3", Fire(128, 16, 64))),
        fire4(register_module("fire4", Fire(128, 32, 128))),
        fire5(register_module("fire5", Fire(256, 32, 128))),
        fire6(register_module("fire6", Fire(256, 48, 192))),
        fire7(register_module("fire7", Fire(384, 48, 192))),
        fire8(register_module("fire8", Fire(384, 64, 256))),
        fire9(register_module("fire9", Fire(512, 64, 256))),
        drop9(register_module("drop9", torch::nn::Dropout(0.5))),
        conv10(register_module("conv10", torch::nn::Conv2d(torch::nn::Conv2dOptions(512, classes, 1).padding(1)))) {
    for (auto& module : modules(false)) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) torch::nn::init::kaiming_normal_(conv->weight);
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    x = pool(conv1(x).relu_());
    x = pool(fire3(fire2(x)));
    x = pool(fire5(fire4(x)));
    x = fire9(fire8(fire7(fire6(x))));
    x = conv10(drop9(x)).relu_();
    return x.mean({2, 3});
  }

 private:
  static torch::Tensor pool(const torch::Tensor& x) {
    return torch::max_pool2d(x, /*kernel_size=*/3, /*stride=*/2, /*padding=*/0, /*dilation=*/1, /*ceil_mode=*/true);
  }

  torch::nn::Conv2d conv1;
  Fire fire2, fire3, fire4, fire5, fire6, fire7, fire8, fire9;
  torch::nn::Dropout drop9;
  torch::nn::Conv2d conv10;
};
TORCH_MODULE(SqueezeNet);

}  // namespace models
