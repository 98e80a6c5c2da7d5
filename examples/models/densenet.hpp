#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

namespace models {

/// Norm, ReLU, 1x1, norm, ReLU, 3x3 on everything that the block has produced so far.
class DenseLayerImpl : public torch::nn::Module {
 public:
  DenseLayerImpl(int64_t in, int64_t growth)
      : norm1(register_module("norm1", torch::nn::BatchNorm2d(in))),
        conv1(register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(in, 4 * growth, 1).bias(false)))),
        norm2(register_module("norm2", torch::nn::BatchNorm2d(4 * growth))),
        conv2(register_module(
            "conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(4 * growth, growth, 3).padding(1).bias(false)))) {}

  torch::Tensor forward(const std::vector<torch::Tensor>& features) {
    auto x = torch::cat(features, 1);
    x = conv1(torch::relu(norm1(x)));
    return conv2(torch::relu(norm2(x)));
  }

 private:
  torch::nn::BatchNorm2d norm1;
  torch::nn::Conv2d conv1;
  torch::nn::BatchNorm2d norm2;
  torch::nn::Conv2d conv2;
};
TORCH_MODULE(DenseLayer);

/// Layers whose outputs are all concatenated with the block's input.
class DenseBlockImpl : public torch::nn::Module {
 public:
  DenseBlockImpl(int64_t in, int64_t layers, int64_t growth) {
    for (int64_t i = 0; i < layers; ++i) {
      layers_.push_back(register_module("denselayer" + std::to_string(i + 1), DenseLayer(in + i * growth, growth)));
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    std::vector<torch::Tensor> features = {x};
    for (auto& layer : layers_) features.push_back(layer(features));
    return torch::cat(features, 1);
  }

 private:
  std::vector<DenseLayer> layers_;
};
TORCH_MODULE(DenseBlock);

/// DenseNet (Huang et al. 2016); the default is DenseNet-121. `[N, 3, 224, 224]` -> `[N, classes]`.
class DenseNetImpl : public torch::nn::Module {
 public:
  explicit DenseNetImpl(int64_t growth = 32, const std::vector<int64_t>& blocks = {6, 12, 24, 16},
                        int64_t classes = 1000) {
    int64_t channels = 2 * growth;
    features->push_back("conv0",
                        torch::nn::Conv2d(torch::nn::Conv2dOptions(3, channels, 7).stride(2).padding(3).bias(false)));
    features->push_back("norm0", torch::nn::BatchNorm2d(channels));
    features->push_back("relu0", torch::nn::ReLU(torch::nn::ReLUOptions().inplace(true)));
    features->push_back("pool0", torch::nn::MaxPool2d(torch::nn::MaxPool2dOptions(3).stride(2).padding(1)));
    for (size_t i = 0; i < blocks.size(); ++i) {
      const std::string number = std::to_string(i + 1);
      features->push_back("denseblock" + number, DenseBlock(channels, blocks[i], growth));
      channels += blocks[i] * growth;
      if (i + 1 == blocks.size()) break;
      features->push_back("transition" + number + "_norm", torch::nn::BatchNorm2d(channels));
      features->push_back("transition" + number + "_relu", torch::nn::ReLU(torch::nn::ReLUOptions().inplace(true)));
      features->push_back("transition" + number + "_conv",
                          torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, channels / 2, 1).bias(false)));
      features->push_back("transition" + number + "_pool", torch::nn::AvgPool2d(2));
      channels /= 2;
    }
    features->push_back("norm5", torch::nn::BatchNorm2d(channels));
    register_module("features", features);
    classifier = register_module("classifier", torch::nn::Linear(channels, classes));
    for (auto& module : modules(false)) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) torch::nn::init::kaiming_normal_(conv->weight);
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(features->forward(x));
    x = torch::adaptive_avg_pool2d(x, {1, 1});
    return classifier(torch::flatten(x, 1));
  }

 private:
  torch::nn::Sequential features;
  torch::nn::Linear classifier{nullptr};
};
TORCH_MODULE(DenseNet);

}  // namespace models
