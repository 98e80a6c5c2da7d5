#pragma once

#include <torch/torch.h>

#include <array>

namespace models {

/// Convolution, batch norm, ReLU6; a Sequential that other Sequentials can hold.
class ConvBnRelu6Impl : public torch::nn::SequentialImpl {
 public:
  ConvBnRelu6Impl(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t groups)
      : SequentialImpl(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, kernel)
                                             .stride(stride)
                                             .padding((kernel - 1) / 2)
                                             .groups(groups)
                                             .bias(false)),
                       torch::nn::BatchNorm2d(out), torch::nn::ReLU6(torch::nn::ReLU6Options().inplace(true))) {}

  torch::Tensor forward(torch::Tensor x) { return SequentialImpl::forward(x); }
};
TORCH_MODULE(ConvBnRelu6);

/// Expand 1x1, depthwise 3x3, project 1x1 without activation; added to its input where the shape allows.
class InvertedResidualImpl : public torch::nn::Module {
 public:
  InvertedResidualImpl(int64_t in, int64_t out, int64_t stride, int64_t expansion)
      : residual_(stride == 1 && in == out) {
    const int64_t hidden = in * expansion;
    if (expansion != 1) conv->push_back(ConvBnRelu6(in, hidden, 1, 1, 1));
    conv->push_back(ConvBnRelu6(hidden, hidden, 3, stride, hidden));
    conv->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(hidden, out, 1).bias(false)));
    conv->push_back(torch::nn::BatchNorm2d(out));
    register_module("conv", conv);
  }

  torch::Tensor forward(torch::Tensor x) { return residual_ ? x + conv->forward(x) : conv->forward(x); }

 private:
  bool residual_;
  torch::nn::Sequential conv;
};
TORCH_MODULE(InvertedResidual);

/// MobileNetV2 (Sandler et al. 2018) of width 1 with torchvision's parameter names. `[N, 3, 224, 224]` -> `[N,
/// classes]`.
class MobileNetV2Impl : public torch::nn::Module {
 public:
  explicit MobileNetV2Impl(int64_t classes = 1000) {
    struct Stage {
      int64_t expansion, channels, blocks, stride;
    };
    constexpr std::array<Stage, 7> kStages = {
        {{1, 16, 1, 1}, {6, 24, 2, 2}, {6, 32, 3, 2}, {6, 64, 4, 2}, {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}}};
    features->push_back(ConvBnRelu6(3, 32, 3, 2, 1));
    int64_t in = 32;
    for (const auto& stage : kStages) {
      for (int64_t i = 0; i < stage.blocks; ++i) {
        features->push_back(InvertedResidual(in, stage.channels, i == 0 ? stage.stride : 1, stage.expansion));
        in = stage.channels;
      }
    }
    features->push_back(ConvBnRelu6(in, 1280, 1, 1, 1));
    register_module("features", features);
    classifier =
        register_module("classifier", torch::nn::Sequential(torch::nn::Dropout(0.2), torch::nn::Linear(1280, classes)));
    for (auto& module : modules(false)) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) torch::nn::init::kaiming_normal_(conv->weight);
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    x = features->forward(x);
    x = x.mean({2, 3});
    return classifier->forward(x);
  }

 private:
  torch::nn::Sequential features;
  torch::nn::Sequential classifier{nullptr};
};
TORCH_MODULE(MobileNetV2);

}  // namespace models
