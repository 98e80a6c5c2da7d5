#pragma once

#include <torch/torch.h>

#include <array>
#include <cmath>

namespace models {

/// Shape of a Swin-like network (Liu et al. 2021): the windows tile every stage.
struct SwinOptions {
  int64_t image = 112;
  int64_t patch = 4;
  int64_t window = 7;
  int64_t width = 48;
  std::array<int64_t, 3> blocks = {2, 2, 2};
  std::array<int64_t, 3> heads = {3, 6, 12};
  int64_t classes = 1000;
};

/// `[N, H, W, C]` -> `[N * windows, window * window, C]`.
inline torch::Tensor partition_windows(const torch::Tensor& x, int64_t window) {
  const auto n = x.size(0), h = x.size(1), w = x.size(2), c = x.size(3);
  auto tiles = x.view({n, h / window, window, w / window, window, c});
  return tiles.permute({0, 1, 3, 2, 4, 5}).contiguous().view({-1, window * window, c});
}

/// The inverse of `partition_windows`.
inline torch::Tensor merge_windows(const torch::Tensor& windows, int64_t window, int64_t h, int64_t w) {
  const auto n = windows.size(0) / (h / window * w / window);
  auto tiles = windows.view({n, h / window, w / window, window, window, -1});
  return tiles.permute({0, 1, 3, 2, 4, 5}).contiguous().view({n, h, w, -1});
}

/// Attention inside windows with a learned bias for each relative position. `[N * windows, L, C]` -> the same.
class WindowAttentionImpl : public torch::nn::Module {
 public:
  WindowAttentionImpl(int64_t width, int64_t window, int64_t heads)
      : heads_(heads), scale_(1 / std::sqrt(static_cast<double>(width / heads))) {
    qkv = register_module("qkv", torch::nn::Linear(width, width * 3));
    proj = register_module("proj", torch::nn::Linear(width, width));
    table = register_parameter("relative_position_bias_table",
                               0.02 * torch::randn({(2 * window - 1) * (2 * window - 1), heads}));
    auto axis = torch::arange(window);
    auto y = axis.repeat_interleave(window), x = axis.repeat(window);
    auto dy = y.unsqueeze(1) - y.unsqueeze(0) + window - 1;
    auto dx = x.unsqueeze(1) - x.unsqueeze(0) + window - 1;
    index = register_buffer("relative_position_index", dy * (2 * window - 1) + dx);
  }

  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& mask) {
    const auto b = x.size(0), l = x.size(1), c = x.size(2);
    auto parts = qkv(x).reshape({b, l, 3, heads_, c / heads_}).permute({2, 0, 3, 1, 4});
    auto q = parts[0] * scale_, k = parts[1], v = parts[2];
    auto scores = torch::matmul(q, k.transpose(-2, -1));
    auto bias = table.index({index.view({-1})}).view({l, l, heads_}).permute({2, 0, 1}).contiguous();
    scores = scores + bias.unsqueeze(0);
    if (mask.defined()) {
      const auto windows = mask.size(0);
      scores = scores.view({b / windows, windows, heads_, l, l}) + mask.unsqueeze(1).unsqueeze(0);
      scores = scores.view({-1, heads_, l, l});
    }
    auto weights = torch::softmax(scores, -1);
    return proj(torch::matmul(weights, v).transpose(1, 2).reshape({b, l, c}));
  }

 private:
  int64_t heads_;
  double scale_;
  torch::nn::Linear qkv{nullptr}, proj{nullptr};
  torch::Tensor table, index;
};
TORCH_MODULE(WindowAttention);

/// Pre-norm block; every other one shifts the picture by half a window first. `[N, L, C]` -> the same.
class SwinBlockImpl : public torch::nn::Module {
 public:
  SwinBlockImpl(int64_t width, int64_t side, int64_t window, int64_t heads, bool shifted)
      : side_(side),
        window_(window),
        shift_(shifted && side > window ? window / 2 : 0),
        norm1(register_module("norm1", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})))),
        attn(register_module("attn", WindowAttention(width, window, heads))),
        norm2(register_module("norm2", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})))),
        fc1(register_module("fc1", torch::nn::Linear(width, width * 4))),
        fc2(register_module("fc2", torch::nn::Linear(width * 4, width))) {
    if (shift_ > 0) mask = register_buffer("attn_mask", shifted_mask());
  }

  torch::Tensor forward(const torch::Tensor& x) {
    const auto n = x.size(0), l = x.size(1), c = x.size(2);
    auto y = norm1(x).view({n, side_, side_, c});
    if (shift_ > 0) y = torch::roll(y, {-shift_, -shift_}, {1, 2});
    auto windows = attn(partition_windows(y, window_), mask);
    y = merge_windows(windows, window_, side_, side_);
    if (shift_ > 0) y = torch::roll(y, {shift_, shift_}, {1, 2});
    y = x + y.view({n, l, c});
    return y + fc2(torch::gelu(fc1(norm2(y))));
  }

 private:
  // Pixels that only the shift brought into one window must not attend to each other.
  torch::Tensor shifted_mask() const {
    using torch::indexing::Slice;
    auto regions = torch::zeros({1, side_, side_, 1});
    const std::array<Slice, 3> cuts = {Slice(0, -window_), Slice(-window_, -shift_),
                                       Slice(-shift_, torch::indexing::None)};
    int64_t region = 0;
    for (const auto& rows : cuts) {
      for (const auto& columns : cuts) regions.index_put_({Slice(), rows, columns, Slice()}, region++);
    }
    auto windows = partition_windows(regions, window_).squeeze(-1);
    auto differs = windows.unsqueeze(1) != windows.unsqueeze(2);
    return differs.to(torch::kFloat) * -100.0;
  }

  int64_t side_, window_, shift_;
  torch::nn::LayerNorm norm1;
  WindowAttention attn;
  torch::nn::LayerNorm norm2;
  torch::nn::Linear fc1, fc2;
  torch::Tensor mask;
};
TORCH_MODULE(SwinBlock);

/// Joins 2x2 patches: `[N, L, C]` -> `[N, L / 4, 2 C]`.
class PatchMergingImpl : public torch::nn::Module {
 public:
  PatchMergingImpl(int64_t width, int64_t side)
      : side_(side),
        norm(register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({4 * width})))),
        reduction(register_module("reduction",
                                  torch::nn::Linear(torch::nn::LinearOptions(4 * width, 2 * width).bias(false)))) {}

  torch::Tensor forward(const torch::Tensor& tokens) {
    using namespace torch::indexing;
    const auto n = tokens.size(0), c = tokens.size(2);
    auto x = tokens.view({n, side_, side_, c});
    std::vector<torch::Tensor> corners;
    for (const int64_t column : {0, 1}) {
      for (const int64_t row : {0, 1}) {
        corners.push_back(x.index({Slice(), Slice(row, None, 2), Slice(column, None, 2), Slice()}));
      }
    }
    x = torch::cat(corners, -1).view({n, -1, 4 * c});
    return reduction(norm(x));
  }

 private:
  int64_t side_;
  torch::nn::LayerNorm norm;
  torch::nn::Linear reduction;
};
TORCH_MODULE(PatchMerging);

/// Swin-like classifier. `[N, 3, image, image]` -> `[N, classes]`.
class SwinImpl : public torch::nn::Module {
 public:
  explicit SwinImpl(const SwinOptions& options = {}) {
    patch_embed = register_module(
        "patch_embed",
        torch::nn::Conv2d(torch::nn::Conv2dOptions(3, options.width, options.patch).stride(options.patch)));
    int64_t width = options.width;
    int64_t side = options.image / options.patch;
    for (size_t stage = 0; stage < options.blocks.size(); ++stage) {
      if (stage > 0) {
        layers->push_back(PatchMerging(width, side));
        width *= 2;
        side /= 2;
      }
      for (int64_t i = 0; i < options.blocks[stage]; ++i) {
        layers->push_back(SwinBlock(width, side, options.window, options.heads[stage], i % 2 == 1));
      }
    }
    register_module("layers", layers);
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})));
    head = register_module("head", torch::nn::Linear(width, options.classes));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = patch_embed(x).flatten(2).transpose(1, 2).contiguous();
    x = norm(layers->forward(x));
    return head(x.mean(1));
  }

 private:
  torch::nn::Conv2d patch_embed{nullptr};
  torch::nn::Sequential layers;
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Swin);

}  // namespace models
