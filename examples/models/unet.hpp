#pragma once

#include <torch/torch.h>

#include <vector>

namespace models {

/// Two 3x3 convolutions with batch norm and ReLU.
class DoubleConvImpl : public torch::nn::Module {
 public:
  DoubleConvImpl(int64_t in, int64_t out)
      : layers(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).padding(1).bias(false)),
               torch::nn::BatchNorm2d(out), torch::nn::ReLU(torch::nn::ReLUOptions().inplace(true)),
               torch::nn::Conv2d(torch::nn::Conv2dOptions(out, out, 3).padding(1).bias(false)),
               torch::nn::BatchNorm2d(out), torch::nn::ReLU(torch::nn::ReLUOptions().inplace(true))) {
    register_module("layers", layers);
  }

  torch::Tensor forward(torch::Tensor x) { return layers->forward(x); }

 private:
  torch::nn::Sequential layers;
};
TORCH_MODULE(DoubleConv);

/// U-Net (Ronneberger et al. 2015) with transposed convolutions and skip concatenation.
/// `[N, channels, H, W]`, H and W multiples of `2^depth` -> mask logits `[N, classes, H, W]`.
class UNetImpl : public torch::nn::Module {
 public:
  explicit UNetImpl(int64_t channels = 1, int64_t classes = 1, int64_t width = 16, int64_t depth = 3) {
    int64_t in = channels;
    for (int64_t level = 0; level < depth; ++level) {
      down->push_back(DoubleConv(in, width << level));
      in = width << level;
    }
    bottom = register_module("bottom", DoubleConv(in, in * 2));
    for (int64_t level = depth - 1; level >= 0; --level) {
      const int64_t out = width << level;
      up->push_back(torch::nn::ConvTranspose2d(torch::nn::ConvTranspose2dOptions(out * 2, out, 2).stride(2)));
      merge->push_back(DoubleConv(out * 2, out));
    }
    register_module("down", down);
    register_module("up", up);
    register_module("merge", merge);
    head = register_module("head", torch::nn::Conv2d(width, classes, 1));
    for (auto& module : modules(false)) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) torch::nn::init::kaiming_normal_(conv->weight);
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    std::vector<torch::Tensor> skips;
    for (const auto& block : *down) {
      skips.push_back(block->as<DoubleConv>()->forward(x));
      x = torch::max_pool2d(skips.back(), 2);
    }
    x = bottom(x);
    for (size_t i = 0; i < up->size(); ++i) {
      x = up[i]->as<torch::nn::ConvTranspose2d>()->forward(x);
      x = torch::cat({skips.back(), x}, 1);
      skips.pop_back();
      x = merge[i]->as<DoubleConv>()->forward(x);
    }
    return head(x);
  }

 private:
  torch::nn::ModuleList down, up, merge;
  DoubleConv bottom{nullptr};
  torch::nn::Conv2d head{nullptr};
};
TORCH_MODULE(UNet);

}  // namespace models
