#pragma once

#include <torch/torch.h>

#include <cmath>
#include <limits>

namespace models {

/// Strided CNN with group norm. `[N, in, H, W]` -> `[N, width]`; the first layer has `channels`, a multiple of 8, and
/// each further one twice as many as the last.
class ImageTowerImpl : public torch::nn::Module {
 public:
  explicit ImageTowerImpl(int64_t width, int64_t in = 3, int64_t channels = 32) {
    for (const int64_t out : {channels, 2 * channels, 4 * channels}) {
      layers->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).stride(2).padding(1).bias(false)));
      layers->push_back(torch::nn::GroupNorm(torch::nn::GroupNormOptions(8, out)));
      layers->push_back(torch::nn::SiLU());
      in = out;
    }
    register_module("layers", layers);
    projection = register_module("projection", torch::nn::Linear(in, width));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = layers->forward(x);
    return projection(x.flatten(2).mean(-1));
  }

 private:
  torch::nn::Sequential layers;
  torch::nn::Linear projection{nullptr};
};
TORCH_MODULE(ImageTower);

/// Pre-norm block with one projection for queries, keys and values, and a causal mask `[S, S]` added to the scores.
class CausalBlockImpl : public torch::nn::Module {
 public:
  CausalBlockImpl(int64_t width, int64_t heads)
      : heads_(heads),
        norm1(register_module("norm1", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})))),
        qkv(register_module("qkv", torch::nn::Linear(width, 3 * width))),
        out(register_module("out", torch::nn::Linear(width, width))),
        norm2(register_module("norm2", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})))),
        mlp(register_module("mlp", torch::nn::Sequential(torch::nn::Linear(width, 4 * width), torch::nn::GELU(),
                                                         torch::nn::Linear(4 * width, width)))) {}

  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& mask) {
    auto parts = qkv(norm1(x)).chunk(3, -1);
    auto y = torch::scaled_dot_product_attention(split(parts[0]), split(parts[1]), split(parts[2]), mask);
    y = x + out(y.transpose(1, 2).reshape(x.sizes()));
    return y + mlp->forward(norm2(y));
  }

 private:
  torch::Tensor split(const torch::Tensor& x) const {
    return x.view({x.size(0), x.size(1), heads_, x.size(2) / heads_}).transpose(1, 2);
  }

  int64_t heads_;
  torch::nn::LayerNorm norm1;
  torch::nn::Linear qkv, out;
  torch::nn::LayerNorm norm2;
  torch::nn::Sequential mlp;
};
TORCH_MODULE(CausalBlock);

/// Small causal transformer; the last position stands for the sentence. `[N, S]` int64, S <= 64 -> `[N, width]`.
class TextTowerImpl : public torch::nn::Module {
 public:
  TextTowerImpl(int64_t vocabulary, int64_t width, int64_t heads, int64_t layers)
      : embedding(register_module("embedding", torch::nn::Embedding(vocabulary, width))),
        position(register_parameter("position", 0.1 * torch::randn({64, width}))) {
    for (int64_t i = 0; i < layers; ++i) blocks->push_back(CausalBlock(width, heads));
    register_module("blocks", blocks);
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})));
    projection = register_module("projection", torch::nn::Linear(torch::nn::LinearOptions(width, width).bias(false)));
  }

  torch::Tensor forward(const torch::Tensor& ids) {
    const auto s = ids.size(1);
    auto x = embedding(ids) + position.narrow(0, 0, s);
    auto mask = torch::full({s, s}, -std::numeric_limits<float>::infinity(), x.options()).triu(1);
    for (const auto& block : *blocks) x = block->as<CausalBlock>()->forward(x, mask);
    return projection(norm(x.select(1, -1)));
  }

 private:
  torch::nn::Embedding embedding;
  torch::Tensor position;
  torch::nn::ModuleList blocks;
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear projection{nullptr};
};
TORCH_MODULE(TextTower);

/// How large both towers are.
struct TwoTowerSizes {
  int64_t width = 128;  ///< of the space in which they meet
  int64_t vocabulary = 1000, heads = 4, layers = 2;
  int64_t image_channels = 3, channels = 32;
};

/// CLIP-like pair of towers (Radford et al. 2021). Images `[N, image_channels, H, W]` and ids `[M, S]` -> similarities
/// `[N, M]`.
class TwoTowerImpl : public torch::nn::Module {
 public:
  explicit TwoTowerImpl(const TwoTowerSizes& sizes = {})
      : image(register_module("image", ImageTower(sizes.width, sizes.image_channels, sizes.channels))),
        text(register_module("text", TextTower(sizes.vocabulary, sizes.width, sizes.heads, sizes.layers))),
        logit_scale(register_parameter("logit_scale", torch::tensor(std::log(1 / 0.07F)))) {}

  torch::Tensor forward(const torch::Tensor& images, const torch::Tensor& ids) {
    auto a = image(images);
    auto b = text(ids);
    a = a / a.norm(2, -1, /*keepdim=*/true);
    b = b / b.norm(2, -1, /*keepdim=*/true);
    return logit_scale.exp() * torch::matmul(a, b.t());
  }

 private:
  ImageTower image;
  TextTower text;
  torch::Tensor logit_scale;
};
TORCH_MODULE(TwoTower);

}  // namespace models
