#pragma once

#include <torch/torch.h>

#include <array>
#include <cmath>

#include "examples/models/same_conv.hpp"

namespace models {

/// Mobile inverted bottleneck without squeeze-excite: expand (unless the ratio is 1), depthwise, project.
class MbConvImpl : public torch::nn::Module {
 public:
  MbConvImpl(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t expansion)
      : residual_(stride == 1 && in == out) {
    const int64_t hidden = in * expansion;
    if (expansion != 1) {
      expand = register_module("_expand_conv", SameConv2d(in, hidden, 1));
      bn0 = register_module("_bn0", batch_norm(hidden));
    }
    depthwise = register_module("_depthwise_conv", SameConv2d(hidden, hidden, kernel, stride, hidden));
    bn1 = register_module("_bn1", batch_norm(hidden));
    project = register_module("_project_conv", SameConv2d(hidden, out, 1));
    bn2 = register_module("_bn2", batch_norm(out));
  }

  static torch::nn::BatchNorm2d batch_norm(int64_t channels) {
    return torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(channels).eps(1e-3).momentum(0.01));
  }

  torch::Tensor forward(torch::Tensor x) {
    auto y = x;
    if (expand) y = torch::relu6(bn0(expand(y)));
    y = torch::relu6(bn1(depthwise(y)));
    y = bn2(project(y));
    if (residual_) y = y + x;
    return y;
  }

 private:
  bool residual_;
  SameConv2d expand{nullptr}, depthwise{nullptr}, project{nullptr};
  torch::nn::BatchNorm2d bn0{nullptr}, bn1{nullptr}, bn2{nullptr};
};
TORCH_MODULE(MbConv);

/// EfficientNet-Lite 0 and 1 (Tan and Le 2019, without squeeze-excite and with ReLU6). Lite 1 repeats blocks 1.1 times
/// as often, the first and last stage excepted. `[N, 3, 224, 224]` (lite 1: 240) -> `[N, classes]`.
class EfficientNetLiteImpl : public torch::nn::Module {
 public:
  explicit EfficientNetLiteImpl(double depth = 1.0, int64_t classes = 1000) {
    struct Stage {
      int64_t repeats, kernel, stride, expansion, channels;
    };
    constexpr std::array<Stage, 7> kStages = {{{1, 3, 1, 1, 16},
                                               {2, 3, 2, 6, 24},
                                               {2, 5, 2, 6, 40},
                                               {3, 3, 2, 6, 80},
                                               {3, 5, 1, 6, 112},
                                               {4, 5, 2, 6, 192},
                                               {1, 3, 1, 6, 320}}};
    stem = register_module("_conv_stem", SameConv2d(3, 32, 3, 2));
    bn0 = register_module("_bn0", MbConvImpl::batch_norm(32));
    int64_t in = 32;
    for (size_t s = 0; s < kStages.size(); ++s) {
      const bool fixed = s == 0 || s + 1 == kStages.size();
      const auto& stage = kStages[s];
      const auto repeats =
          fixed ? stage.repeats : static_cast<int64_t>(std::ceil(depth * static_cast<double>(stage.repeats)));
      for (int64_t i = 0; i < repeats; ++i) {
        blocks->push_back(MbConv(in, stage.channels, stage.kernel, i == 0 ? stage.stride : 1, stage.expansion));
        in = stage.channels;
      }
    }
    register_module("_blocks", blocks);
    head = register_module("_conv_head", SameConv2d(in, 1280, 1));
    bn1 = register_module("_bn1", MbConvImpl::batch_norm(1280));
    dropout = register_module("_dropout", torch::nn::Dropout(0.2));
    fc = register_module("_fc", torch::nn::Linear(1280, classes));
    for (auto& module : modules(false)) {
      if (auto* conv = module->as<SameConv2d>()) torch::nn::init::kaiming_normal_(conv->weight);
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu6(bn0(stem(x)));
    for (const auto& block : *blocks) x = block->as<MbConv>()->forward(x);
    x = torch::relu6(bn1(head(x)));
    x = torch::adaptive_avg_pool2d(x, {1, 1}).flatten(1);
    return fc(dropout(x));
  }

 private:
  SameConv2d stem{nullptr}, head{nullptr};
  torch::nn::BatchNorm2d bn0{nullptr}, bn1{nullptr};
  torch::nn::ModuleList blocks;
  torch::nn::Dropout dropout{nullptr};
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(EfficientNetLite);

}  // namespace models
