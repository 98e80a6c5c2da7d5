#pragma once

#include <torch/torch.h>

#include <array>

namespace models {

/// Half of the channels pass (stride 1) or both halves are convolved (stride 2); then the channels are shuffled.
class ShuffleUnitImpl : public torch::nn::Module {
 public:
  ShuffleUnitImpl(int64_t in, int64_t out, int64_t stride) : stride_(stride) {
    const int64_t half = out / 2;
    if (stride > 1) {
      branch1->push_back(depthwise(in, stride));
      branch1->push_back(torch::nn::BatchNorm2d(in));
      push_pointwise(branch1, in, half);
      register_module("branch1", branch1);
    }
    push_pointwise(branch2, stride > 1 ? in : half, half);
    branch2->push_back(depthwise(half, stride));
    branch2->push_back(torch::nn::BatchNorm2d(half));
    push_pointwise(branch2, half, half);
    register_module("branch2", branch2);
  }

  torch::Tensor forward(torch::Tensor x) {
    torch::Tensor out;
    if (stride_ == 1) {
      auto halves = x.chunk(2, 1);
      out = torch::cat({halves[0], branch2->forward(halves[1])}, 1);
    } else {
      out = torch::cat({branch1->forward(x), branch2->forward(x)}, 1);
    }
    return shuffle(out, 2);
  }

 private:
  static torch::nn::Conv2d depthwise(int64_t channels, int64_t stride) {
    return torch::nn::Conv2d(
        torch::nn::Conv2dOptions(channels, channels, 3).stride(stride).padding(1).groups(channels).bias(false));
  }
  static void push_pointwise(torch::nn::Sequential& branch, int64_t in, int64_t out) {
    branch->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 1).bias(false)));
    branch->push_back(torch::nn::BatchNorm2d(out));
    branch->push_back(torch::nn::ReLU(torch::nn::ReLUOptions().inplace(true)));
  }
  static torch::Tensor shuffle(torch::Tensor x, int64_t groups) {
    const auto n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
    x = x.view({n, groups, c / groups, h, w});
    x = x.transpose(1, 2).contiguous();
    return x.view({n, c, h, w});
  }

  int64_t stride_;
  torch::nn::Sequential branch1, branch2;
};
TORCH_MODULE(ShuffleUnit);

/// ShuffleNet v2 of width 1 (Ma et al. 2018). `[N, 3, 224, 224]` -> `[N, classes]`.
class ShuffleNetV2Impl : public torch::nn::Module {
 public:
  explicit ShuffleNetV2Impl(int64_t classes = 1000) {
    constexpr std::array<int64_t, 3> kRepeats = {4, 8, 4};
    constexpr std::array<int64_t, 3> kChannels = {116, 232, 464};
    conv1 = register_module("conv1", conv_bn_relu(3, 24, 3, 2));
    int64_t in = 24;
    for (size_t stage = 0; stage < kRepeats.size(); ++stage) {
      for (int64_t i = 0; i < kRepeats[stage]; ++i) {
        units->push_back(ShuffleUnit(in, kChannels[stage], i == 0 ? 2 : 1));
        in = kChannels[stage];
      }
    }
    register_module("units", units);
    conv5 = register_module("conv5", conv_bn_relu(in, 1024, 1, 1));
    fc = register_module("fc", torch::nn::Linear(1024, classes));
    for (auto& module : modules(false)) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) torch::nn::init::kaiming_normal_(conv->weight);
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::max_pool2d(conv1->forward(x), 3, 2, 1);
    x = conv5->forward(units->forward(x));
    return fc(x.mean({2, 3}));
  }

 private:
  static torch::nn::Sequential conv_bn_relu(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
    return torch::nn::Sequential(
        torch::nn::Conv2d(
            torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding((kernel - 1) / 2).bias(false)),
        torch::nn::BatchNorm2d(out), torch::nn::ReLU(torch::nn::ReLUOptions().inplace(true)));
  }

  torch::nn::Sequential conv1{nullptr}, units, conv5{nullptr};
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(ShuffleNetV2);

}  // namespace models
