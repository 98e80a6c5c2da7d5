#pragma once

#include <torch/torch.h>

namespace models {

/// Residual block of the CIFAR ResNets; the shortcut has no parameters ("option A"): it takes every other pixel and
/// pads the new channels with zeros on both sides.
class CifarBlockImpl : public torch::nn::Module {
 public:
  CifarBlockImpl(int64_t in, int64_t out, int64_t stride)
      : pad_(in == out && stride == 1 ? -1 : (out - in) / 2),
        conv1(register_module("conv1", conv3x3(in, out, stride))),
        bn1(register_module("bn1", torch::nn::BatchNorm2d(out))),
        conv2(register_module("conv2", conv3x3(out, out, 1))),
        bn2(register_module("bn2", torch::nn::BatchNorm2d(out))) {}

  static torch::nn::Conv2d conv3x3(int64_t in, int64_t out, int64_t stride) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).stride(stride).padding(1).bias(false));
  }

  torch::Tensor forward(torch::Tensor x) {
    auto out = torch::relu(bn1(conv1(x)));
    out = bn2(conv2(out));
    out += shortcut(x);
    return torch::relu(out);
  }

 private:
  torch::Tensor shortcut(const torch::Tensor& x) const {
    using namespace torch::indexing;
    if (pad_ < 0) return x;
    auto half = x.index({Slice(), Slice(), Slice(None, None, 2), Slice(None, None, 2)});
    return torch::nn::functional::pad(half, torch::nn::functional::PadFuncOptions({0, 0, 0, 0, pad_, pad_}));
  }

  int64_t pad_;
  torch::nn::Conv2d conv1;
  torch::nn::BatchNorm2d bn1;
  torch::nn::Conv2d conv2;
  torch::nn::BatchNorm2d bn2;
};
TORCH_MODULE(CifarBlock);

/// ResNet for CIFAR (He et al. 2015, section 4.2) of depth 6n + 2: 20, 32, 44, 56, ... `[N, 3, 32, 32]` -> `[N, 10]`.
class CifarResNetImpl : public torch::nn::Module {
 public:
  explicit CifarResNetImpl(int64_t depth = 20, int64_t classes = 10)
      : conv1(register_module("conv1", CifarBlockImpl::conv3x3(3, 16, 1))),
        bn1(register_module("bn1", torch::nn::BatchNorm2d(16))),
        layer1(register_module("layer1", stage(16, 16, (depth - 2) / 6, 1))),
        layer2(register_module("layer2", stage(16, 32, (depth - 2) / 6, 2))),
        layer3(register_module("layer3", stage(32, 64, (depth - 2) / 6, 2))),
        linear(register_module("linear", torch::nn::Linear(64, classes))) {
    for (auto& module : modules(false)) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) torch::nn::init::kaiming_normal_(conv->weight);
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(bn1(conv1(x)));
    x = layer3->forward(layer2->forward(layer1->forward(x)));
    x = torch::avg_pool2d(x, x.size(3));
    x = x.view({x.size(0), -1});
    return linear(x);
  }

 private:
  static torch::nn::Sequential stage(int64_t in, int64_t out, int64_t blocks, int64_t stride) {
    torch::nn::Sequential layers;
    for (int64_t i = 0; i < blocks; ++i) layers->push_back(CifarBlock(i == 0 ? in : out, out, i == 0 ? stride : 1));
    return layers;
  }

  torch::nn::Conv2d conv1;
  torch::nn::BatchNorm2d bn1;
  torch::nn::Sequential layer1, layer2, layer3;
  torch::nn::Linear linear;
};
TORCH_MODULE(CifarResNet);

}  // namespace models
