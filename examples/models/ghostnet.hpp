#pragma once

#include <torch/torch.h>

#include <array>

#include "examples/models/mobilenetv3.hpp"

namespace models {

/// Half of the channels by a convolution, the other half from those by a cheap depthwise one; surplus is sliced off.
class GhostModuleImpl : public torch::nn::Module {
 public:
  GhostModuleImpl(int64_t in, int64_t out, bool activate) : out_(out), activate_(activate) {
    const int64_t primary = (out + 1) / 2;
    primary_conv =
        register_module("primary_conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(in, primary, 1).bias(false)));
    primary_bn = register_module("primary_bn", torch::nn::BatchNorm2d(primary));
    cheap_conv = register_module(
        "cheap_conv",
        torch::nn::Conv2d(torch::nn::Conv2dOptions(primary, primary, 3).padding(1).groups(primary).bias(false)));
    cheap_bn = register_module("cheap_bn", torch::nn::BatchNorm2d(primary));
  }

  torch::Tensor forward(torch::Tensor x) {
    using namespace torch::indexing;
    auto first = activation(primary_bn(primary_conv(x)));
    auto second = activation(cheap_bn(cheap_conv(first)));
    return torch::cat({first, second}, 1).index({Slice(), Slice(None, out_), Slice(), Slice()});
  }

 private:
  torch::Tensor activation(torch::Tensor x) const { return activate_ ? torch::relu(x) : x; }

  int64_t out_;
  bool activate_;
  torch::nn::Conv2d primary_conv{nullptr}, cheap_conv{nullptr};
  torch::nn::BatchNorm2d primary_bn{nullptr}, cheap_bn{nullptr};
};
TORCH_MODULE(GhostModule);

/// One row of the architecture's table.
struct GhostBlock {
  int64_t kernel, hidden, out, stride;
  bool squeeze;
};

/// Ghost, depthwise where it strides, squeeze-excite, ghost, shortcut.
class GhostBottleneckImpl : public torch::nn::Module {
 public:
  GhostBottleneckImpl(int64_t in, const GhostBlock& block) {
    ghost1 = register_module("ghost1", GhostModule(in, block.hidden, true));
    if (block.stride > 1) {
      depthwise = register_module("depthwise", depthwise_conv(block.hidden, block));
      depthwise_bn = register_module("depthwise_bn", torch::nn::BatchNorm2d(block.hidden));
    }
    if (block.squeeze) {
      se = register_module("se", SqueezeExcite(block.hidden, round_channels(static_cast<double>(block.hidden) / 4)));
    }
    ghost2 = register_module("ghost2", GhostModule(block.hidden, block.out, false));
    if (block.stride > 1 || in != block.out) {
      shortcut->push_back(depthwise_conv(in, block));
      shortcut->push_back(torch::nn::BatchNorm2d(in));
      shortcut->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, block.out, 1).bias(false)));
      shortcut->push_back(torch::nn::BatchNorm2d(block.out));
      register_module("shortcut", shortcut);
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    auto y = ghost1(x);
    if (depthwise) y = depthwise_bn(depthwise(y));
    if (se) y = se(y);
    y = ghost2(y);
    y += shortcut->is_empty() ? x : shortcut->forward(x);
    return y;
  }

 private:
  static torch::nn::Conv2d depthwise_conv(int64_t channels, const GhostBlock& block) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, channels, block.kernel)
                                 .stride(block.stride)
                                 .padding((block.kernel - 1) / 2)
                                 .groups(channels)
                                 .bias(false));
  }

  GhostModule ghost1{nullptr}, ghost2{nullptr};
  torch::nn::Conv2d depthwise{nullptr};
  torch::nn::BatchNorm2d depthwise_bn{nullptr};
  SqueezeExcite se{nullptr};
  torch::nn::Sequential shortcut;
};
TORCH_MODULE(GhostBottleneck);

/// GhostNet-like network (Han et al. 2020), shortened. `[N, 3, 128, 128]` -> `[N, classes]`.
class GhostNetImpl : public torch::nn::Module {
 public:
  explicit GhostNetImpl(int64_t classes = 1000) {
    constexpr std::array<GhostBlock, 9> kBlocks = {{{3, 16, 16, 1, false},
                                                    {3, 48, 24, 2, false},
                                                    {3, 72, 24, 1, false},
                                                    {5, 72, 40, 2, true},
                                                    {5, 120, 40, 1, true},
                                                    {3, 240, 80, 2, false},
                                                    {3, 184, 80, 1, false},
                                                    {3, 480, 111, 1, true},
                                                    {5, 672, 160, 2, true}}};
    stem =
        register_module("stem", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 16, 3).stride(2).padding(1).bias(false)));
    stem_bn = register_module("stem_bn", torch::nn::BatchNorm2d(16));
    int64_t in = 16;
    for (const auto& block : kBlocks) {
      blocks->push_back(GhostBottleneck(in, block));
      in = block.out;
    }
    register_module("blocks", blocks);
    head = register_module("head", torch::nn::Conv2d(in, 640, 1));
    classifier = register_module("classifier", torch::nn::Linear(640, classes));
    for (auto& module : modules(false)) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) torch::nn::init::kaiming_normal_(conv->weight);
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(stem_bn(stem(x)));
    x = blocks->forward(x);
    x = torch::adaptive_avg_pool2d(x, {1, 1});
    x = torch::relu(head(x)).squeeze(-1).squeeze(-1);
    return classifier(x);
  }

 private:
  torch::nn::Conv2d stem{nullptr}, head{nullptr};
  torch::nn::BatchNorm2d stem_bn{nullptr};
  torch::nn::Sequential blocks;
  torch::nn::Linear classifier{nullptr};
};
TORCH_MODULE(GhostNet);

}  // namespace models
