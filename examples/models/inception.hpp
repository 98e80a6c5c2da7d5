#pragma once

#include <torch/torch.h>

namespace models {

/// Convolution with possibly oblong kernel, batch norm, ReLU.
class InceptionConvImpl : public torch::nn::Module {
 public:
  explicit InceptionConvImpl(torch::nn::Conv2dOptions options)
      : conv(register_module("conv", torch::nn::Conv2d(options.bias(false)))),
        bn(register_module("bn", torch::nn::BatchNorm2d(options.out_channels()))) {
    torch::nn::init::kaiming_normal_(conv->weight);
  }

  torch::Tensor forward(torch::Tensor x) { return bn(conv(x)).relu_(); }

 private:
  torch::nn::Conv2d conv;
  torch::nn::BatchNorm2d bn;
};
TORCH_MODULE(InceptionConv);

/// Four branches side by side: 1x1, factorised 1x5 and 5x1, two 3x3, and pooling with a projection.
class InceptionBlockImpl : public torch::nn::Module {
 public:
  InceptionBlockImpl(int64_t in, int64_t width) {
    using Options = torch::nn::Conv2dOptions;
    single = register_module("single", InceptionConv(Options(in, width, 1)));
    oblong = register_module("oblong",
                             torch::nn::Sequential(InceptionConv(Options(in, width / 2, 1)),
                                                   InceptionConv(Options(width / 2, width / 2, {1, 5}).padding({0, 2})),
                                                   InceptionConv(Options(width / 2, width, {5, 1}).padding({2, 0}))));
    twice = register_module("twice", torch::nn::Sequential(InceptionConv(Options(in, width / 2, 1)),
                                                           InceptionConv(Options(width / 2, width, 3).padding(1)),
                                                           InceptionConv(Options(width, width, 3).padding(1))));
    pooled = register_module("pooled", InceptionConv(Options(in, width / 2, 1)));
  }

  static int64_t outputs(int64_t width) { return 3 * width + width / 2; }

  torch::Tensor forward(torch::Tensor x) {
    auto pool = torch::avg_pool2d(x, 3, 1, 1);
    return torch::cat({single(x), oblong->forward(x), twice->forward(x), pooled(pool)}, 1);
  }

 private:
  InceptionConv single{nullptr}, pooled{nullptr};
  torch::nn::Sequential oblong{nullptr}, twice{nullptr};
};
TORCH_MODULE(InceptionBlock);

/// Small network of Inception blocks (Szegedy et al. 2015). `[N, 3, 96, 96]` -> `[N, classes]`.
class InceptionImpl : public torch::nn::Module {
 public:
  explicit InceptionImpl(int64_t classes = 100) {
    using Options = torch::nn::Conv2dOptions;
    stem = register_module("stem", torch::nn::Sequential(InceptionConv(Options(3, 32, 3).stride(2)),
                                                         InceptionConv(Options(32, 64, 3).padding(1))));
    int64_t in = 64;
    for (const int64_t width : {32, 32, 64, 64}) {
      blocks->push_back(InceptionBlock(in, width));
      in = InceptionBlockImpl::outputs(width);
    }
    register_module("blocks", blocks);
    fc = register_module("fc", torch::nn::Linear(in, classes));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::max_pool2d(stem->forward(x), 3, 2);
    for (size_t i = 0; i < blocks->size(); ++i) {
      if (i == 2) x = torch::max_pool2d(x, 3, 2);
      x = blocks->ptr<InceptionBlockImpl>(i)->forward(x);
    }
    x = torch::mean(x, {2, 3});
    return fc(x);
  }

 private:
  torch::nn::Sequential stem{nullptr};
  torch::nn::ModuleList blocks;
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(Inception);

}  // namespace models
