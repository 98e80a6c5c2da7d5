#pragma once

#include <torch/torch.h>

#include <array>

namespace models {

/// Two 3x3 convolutions and a shortcut (ResNet-18 and -34).
class BasicBlockImpl : public torch::nn::Module {
 public:
  static constexpr int64_t kExpansion = 1;

  BasicBlockImpl(int64_t in, int64_t width, int64_t stride, int64_t /*groups*/, int64_t /*group_width*/,
                 torch::nn::Sequential shortcut)
      : downsample(std::move(shortcut)) {
    conv1 = register_module(
        "conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(in, width, 3).stride(stride).padding(1).bias(false)));
    bn1 = register_module("bn1", torch::nn::BatchNorm2d(width));
    conv2 =
        register_module("conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(width, width, 3).padding(1).bias(false)));
    bn2 = register_module("bn2", torch::nn::BatchNorm2d(width));
    if (!downsample.is_empty()) register_module("downsample", downsample);
  }

  torch::Tensor forward(torch::Tensor x) {
    auto identity = downsample.is_empty() ? x : downsample->forward(x);
    auto out = bn1(conv1(x)).relu_();
    out = bn2(conv2(out));
    out += identity;
    return out.relu_();
  }

 private:
  torch::nn::Conv2d conv1{nullptr}, conv2{nullptr};
  torch::nn::BatchNorm2d bn1{nullptr}, bn2{nullptr};
  torch::nn::Sequential downsample;
};
TORCH_MODULE(BasicBlock);

/// 1x1, 3x3 (grouped in ResNeXt), 1x1 and a shortcut (ResNet-50 and deeper); the stride is on the 3x3.
class BottleneckImpl : public torch::nn::Module {
 public:
  static constexpr int64_t kExpansion = 4;

  BottleneckImpl(int64_t in, int64_t planes, int64_t stride, int64_t groups, int64_t group_width,
                 torch::nn::Sequential shortcut)
      : downsample(std::move(shortcut)) {
    const int64_t width = planes * group_width / 64 * groups;
    conv1 = register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(in, width, 1).bias(false)));
    bn1 = register_module("bn1", torch::nn::BatchNorm2d(width));
    conv2 = register_module(
        "conv2", torch::nn::Conv2d(
                     torch::nn::Conv2dOptions(width, width, 3).stride(stride).padding(1).groups(groups).bias(false)));
    bn2 = register_module("bn2", torch::nn::BatchNorm2d(width));
    conv3 = register_module("conv3",
                            torch::nn::Conv2d(torch::nn::Conv2dOptions(width, planes * kExpansion, 1).bias(false)));
    bn3 = register_module("bn3", torch::nn::BatchNorm2d(planes * kExpansion));
    if (!downsample.is_empty()) register_module("downsample", downsample);
  }

  torch::Tensor forward(torch::Tensor x) {
    auto identity = downsample.is_empty() ? x : downsample->forward(x);
    auto out = bn1(conv1(x)).relu_();
    out = bn2(conv2(out)).relu_();
    out = bn3(conv3(out));
    out += identity;
    return out.relu_();
  }

 private:
  torch::nn::Conv2d conv1{nullptr}, conv2{nullptr}, conv3{nullptr};
  torch::nn::BatchNorm2d bn1{nullptr}, bn2{nullptr}, bn3{nullptr};
  torch::nn::Sequential downsample;
};
TORCH_MODULE(Bottleneck);

/// Shape of a ResNet: blocks per stage, kind of block, and the groups of a ResNeXt.
struct ResNetOptions {
  std::array<int64_t, 4> blocks = {2, 2, 2, 2};
  bool bottleneck = false;
  int64_t groups = 1;
  int64_t group_width = 64;
  int64_t classes = 1000;
};

/// ResNet as torchvision lays it out, with its parameter names. `[N, 3, 224, 224]` -> `[N, classes]`.
class ResNetImpl : public torch::nn::Module {
 public:
  explicit ResNetImpl(const ResNetOptions& options = {}) {
    conv1 = register_module("conv1",
                            torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 64, 7).stride(2).padding(3).bias(false)));
    bn1 = register_module("bn1", torch::nn::BatchNorm2d(64));
    layer1 = register_module("layer1", stage(options, 64, options.blocks[0], 1));
    layer2 = register_module("layer2", stage(options, 128, options.blocks[1], 2));
    layer3 = register_module("layer3", stage(options, 256, options.blocks[2], 2));
    layer4 = register_module("layer4", stage(options, 512, options.blocks[3], 2));
    fc = register_module("fc", torch::nn::Linear(in_, options.classes));
    for (auto& module : modules(false)) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) {
        torch::nn::init::kaiming_normal_(conv->weight, 0, torch::kFanOut, torch::kReLU);
      }
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    x = bn1(conv1(x)).relu_();
    x = torch::max_pool2d(x, 3, 2, 1);
    x = layer1->forward(x);
    x = layer2->forward(x);
    x = layer3->forward(x);
    x = layer4->forward(x);
    x = torch::adaptive_avg_pool2d(x, {1, 1});
    x = torch::flatten(x, 1);
    return fc(x);
  }

 private:
  torch::nn::Sequential stage(const ResNetOptions& options, int64_t planes, int64_t blocks, int64_t stride) {
    torch::nn::Sequential layers;
    const int64_t out = planes * (options.bottleneck ? BottleneckImpl::kExpansion : BasicBlockImpl::kExpansion);
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t step = i == 0 ? stride : 1;
      torch::nn::Sequential shortcut{nullptr};
      if (step != 1 || in_ != out) {
        shortcut =
            torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(in_, out, 1).stride(step).bias(false)),
                                  torch::nn::BatchNorm2d(out));
      }
      if (options.bottleneck) {
        layers->push_back(Bottleneck(in_, planes, step, options.groups, options.group_width, shortcut));
      } else {
        layers->push_back(BasicBlock(in_, planes, step, options.groups, options.group_width, shortcut));
      }
      in_ = out;
    }
    return layers;
  }

  int64_t in_ = 64;
  torch::nn::Conv2d conv1{nullptr};
  torch::nn::BatchNorm2d bn1{nullptr};
  torch::nn::Sequential layer1{nullptr}, layer2{nullptr}, layer3{nullptr}, layer4{nullptr};
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(ResNet);

}  // namespace models
