#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <array>

namespace models {

/// The nearest multiple of 8 that is not more than a tenth smaller.
inline int64_t round_channels(double channels) {
  const auto rounded = std::max<int64_t>(8, static_cast<int64_t>(channels + 4) / 8 * 8);
  return static_cast<double>(rounded) < 0.9 * channels ? rounded + 8 : rounded;
}

/// Squeeze-excite: channels scaled by a gate computed from their means. `[N, C, H, W]` -> the same.
class SqueezeExciteImpl : public torch::nn::Module {
 public:
  SqueezeExciteImpl(int64_t channels, int64_t squeezed)
      : fc1(register_module("fc1", torch::nn::Conv2d(channels, squeezed, 1))),
        fc2(register_module("fc2", torch::nn::Conv2d(squeezed, channels, 1))) {}

  torch::Tensor forward(torch::Tensor x) {
    auto scale = torch::adaptive_avg_pool2d(x, {1, 1});
    scale = torch::relu(fc1(scale));
    scale = torch::hardsigmoid(fc2(scale));
    return scale * x;
  }

 private:
  torch::nn::Conv2d fc1, fc2;
};
TORCH_MODULE(SqueezeExcite);

/// One row of the architecture's table.
struct MobileNetV3Block {
  int64_t kernel, hidden, out;
  bool squeeze, hardswish;
  int64_t stride;
};

/// Inverted residual with optional squeeze-excite and hard swish.
class MobileBottleneckImpl : public torch::nn::Module {
 public:
  MobileBottleneckImpl(int64_t in, const MobileNetV3Block& block)
      : residual_(block.stride == 1 && in == block.out), hardswish_(block.hardswish) {
    if (block.hidden != in) {
      expand = register_module("expand", torch::nn::Conv2d(torch::nn::Conv2dOptions(in, block.hidden, 1).bias(false)));
      bn0 = register_module("bn0", batch_norm(block.hidden));
    }
    depthwise = register_module("depthwise",
                                torch::nn::Conv2d(torch::nn::Conv2dOptions(block.hidden, block.hidden, block.kernel)
                                                      .stride(block.stride)
                                                      .padding((block.kernel - 1) / 2)
                                                      .groups(block.hidden)
                                                      .bias(false)));
    bn1 = register_module("bn1", batch_norm(block.hidden));
    if (block.squeeze) {
      se = register_module("se", SqueezeExcite(block.hidden, round_channels(static_cast<double>(block.hidden) / 4)));
    }
    project =
        register_module("project", torch::nn::Conv2d(torch::nn::Conv2dOptions(block.hidden, block.out, 1).bias(false)));
    bn2 = register_module("bn2", batch_norm(block.out));
  }

  static torch::nn::BatchNorm2d batch_norm(int64_t channels) {
    return torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(channels).eps(1e-3).momentum(0.01));
  }

  torch::Tensor forward(torch::Tensor x) {
    auto y = x;
    if (expand) y = activate(bn0(expand(y)));
    y = activate(bn1(depthwise(y)));
    if (se) y = se(y);
    y = bn2(project(y));
    if (residual_) y += x;
    return y;
  }

 private:
  torch::Tensor activate(torch::Tensor x) const { return hardswish_ ? torch::hardswish(x) : torch::relu(x); }

  bool residual_, hardswish_;
  torch::nn::Conv2d expand{nullptr}, depthwise{nullptr}, project{nullptr};
  torch::nn::BatchNorm2d bn0{nullptr}, bn1{nullptr}, bn2{nullptr};
  SqueezeExcite se{nullptr};
};
TORCH_MODULE(MobileBottleneck);

/// MobileNetV3-Small (Howard et al. 2019). `[N, 3, 224, 224]` -> `[N, classes]`.
class MobileNetV3Impl : public torch::nn::Module {
 public:
  explicit MobileNetV3Impl(int64_t classes = 1000) {
    constexpr std::array<MobileNetV3Block, 11> kBlocks = {{{3, 16, 16, true, false, 2},
                                                           {3, 72, 24, false, false, 2},
                                                           {3, 88, 24, false, false, 1},
                                                           {5, 96, 40, true, true, 2},
                                                           {5, 240, 40, true, true, 1},
                                                           {5, 240, 40, true, true, 1},
                                                           {5, 120, 48, true, true, 1},
                                                           {5, 144, 48, true, true, 1},
                                                           {5, 288, 96, true, true, 2},
                                                           {5, 576, 96, true, true, 1},
                                                           {5, 576, 96, true, true, 1}}};
    stem =
        register_module("stem", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 16, 3).stride(2).padding(1).bias(false)));
    stem_bn = register_module("stem_bn", MobileBottleneckImpl::batch_norm(16));
    int64_t in = 16;
    for (const auto& block : kBlocks) {
      blocks->push_back(MobileBottleneck(in, block));
      in = block.out;
    }
    register_module("blocks", blocks);
    head = register_module("head", torch::nn::Conv2d(torch::nn::Conv2dOptions(in, 576, 1).bias(false)));
    head_bn = register_module("head_bn", MobileBottleneckImpl::batch_norm(576));
    classifier = register_module(
        "classifier", torch::nn::Sequential(torch::nn::Linear(576, 1024), torch::nn::Functional(torch::hardswish),
                                            torch::nn::Dropout(0.2), torch::nn::Linear(1024, classes)));
    for (auto& module : modules(false)) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) torch::nn::init::kaiming_normal_(conv->weight);
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::hardswish(stem_bn(stem(x)));
    x = blocks->forward(x);
    x = torch::hardswish(head_bn(head(x)));
    x = torch::adaptive_avg_pool2d(x, {1, 1});
    return classifier->forward(x.view({x.size(0), -1}));
  }

 private:
  torch::nn::Conv2d stem{nullptr}, head{nullptr};
  torch::nn::BatchNorm2d stem_bn{nullptr}, head_bn{nullptr};
  torch::nn::Sequential blocks, classifier{nullptr};
};
TORCH_MODULE(MobileNetV3);

}  // namespace models
