#pragma once

#include <torch/torch.h>

#include <cmath>
#include <vector>

namespace models {

/// Shape of a Llama-like decoder (Touvron et al. 2023); the default is stories260k.
struct LlamaOptions {
  int64_t vocabulary = 512;
  int64_t positions = 512;
  int64_t layers = 5;
  int64_t width = 64;
  int64_t heads = 8;
  int64_t kv_heads = 4;
  int64_t hidden = 172;
  double theta = 10000;
  double epsilon = 1e-5;
};

/// `x / rms(x) * weight` over the last axis.
class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(int64_t width, double epsilon)
      : epsilon_(epsilon), weight(register_parameter("weight", torch::ones(width))) {}

  torch::Tensor forward(const torch::Tensor& x) {
    return x * torch::rsqrt(x.pow(2).mean(-1, /*keepdim=*/true) + epsilon_) * weight;
  }

 private:
  double epsilon_;
  torch::Tensor weight;
};
TORCH_MODULE(RmsNorm);

/// Rotates neighbouring pairs of a head by its position. x `[N, S, heads, D]`, cosine and sine `[S, D / 2]`.
inline torch::Tensor rotate_pairs(const torch::Tensor& x, const torch::Tensor& cosine, const torch::Tensor& sine) {
  auto pairs = x.view({x.size(0), x.size(1), x.size(2), -1, 2});
  auto even = pairs.select(-1, 0);
  auto odd = pairs.select(-1, 1);
  auto c = cosine.unsqueeze(1);
  auto s = sine.unsqueeze(1);
  return torch::stack({even * c - odd * s, even * s + odd * c}, -1).flatten(3);
}

/// Causal self-attention in which several query heads share a key and value head.
class GroupedQueryAttentionImpl : public torch::nn::Module {
 public:
  explicit GroupedQueryAttentionImpl(const LlamaOptions& options)
      : heads_(options.heads), kv_heads_(options.kv_heads), size_(options.width / options.heads) {
    const auto linear = [](int64_t in, int64_t out) {
      return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(false));
    };
    wq = register_module("wq", linear(options.width, heads_ * size_));
    wk = register_module("wk", linear(options.width, kv_heads_ * size_));
    wv = register_module("wv", linear(options.width, kv_heads_ * size_));
    wo = register_module("wo", linear(heads_ * size_, options.width));
  }

  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& cosine, const torch::Tensor& sine) {
    const auto n = x.size(0), s = x.size(1);
    auto q = rotate_pairs(wq(x).view({n, s, heads_, size_}), cosine, sine).transpose(1, 2);
    auto k = rotate_pairs(wk(x).view({n, s, kv_heads_, size_}), cosine, sine);
    auto v = wv(x).view({n, s, kv_heads_, size_});
    k = repeat_heads(k).transpose(1, 2);
    v = repeat_heads(v).transpose(1, 2);
    auto y = torch::scaled_dot_product_attention(q, k, v, /*attn_mask=*/{}, /*dropout_p=*/0.0, /*is_causal=*/true);
    return wo(y.transpose(1, 2).contiguous().view({n, s, heads_ * size_}));
  }

 private:
  torch::Tensor repeat_heads(const torch::Tensor& x) const {
    const auto n = x.size(0), s = x.size(1), repeats = heads_ / kv_heads_;
    return x.unsqueeze(3).expand({n, s, kv_heads_, repeats, size_}).reshape({n, s, heads_, size_});
  }

  int64_t heads_, kv_heads_, size_;
  torch::nn::Linear wq{nullptr}, wk{nullptr}, wv{nullptr}, wo{nullptr};
};
TORCH_MODULE(GroupedQueryAttention);

/// SwiGLU feed-forward network.
class SwiGluImpl : public torch::nn::Module {
 public:
  SwiGluImpl(int64_t width, int64_t hidden)
      : w1(register_module("w1", torch::nn::Linear(torch::nn::LinearOptions(width, hidden).bias(false)))),
        w2(register_module("w2", torch::nn::Linear(torch::nn::LinearOptions(hidden, width).bias(false)))),
        w3(register_module("w3", torch::nn::Linear(torch::nn::LinearOptions(width, hidden).bias(false)))) {}

  torch::Tensor forward(const torch::Tensor& x) { return w2(torch::silu(w1(x)) * w3(x)); }

 private:
  torch::nn::Linear w1, w2, w3;
};
TORCH_MODULE(SwiGlu);

/// One pre-norm decoder layer.
class LlamaLayerImpl : public torch::nn::Module {
 public:
  explicit LlamaLayerImpl(const LlamaOptions& options)
      : attention_norm(register_module("attention_norm", RmsNorm(options.width, options.epsilon))),
        attention(register_module("attention", GroupedQueryAttention(options))),
        ffn_norm(register_module("ffn_norm", RmsNorm(options.width, options.epsilon))),
        feed_forward(register_module("feed_forward", SwiGlu(options.width, options.hidden))) {}

  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& cosine, const torch::Tensor& sine) {
    auto y = x + attention(attention_norm(x), cosine, sine);
    return y + feed_forward(ffn_norm(y));
  }

 private:
  RmsNorm attention_norm;
  GroupedQueryAttention attention;
  RmsNorm ffn_norm;
  SwiGlu feed_forward;
};
TORCH_MODULE(LlamaLayer);

/// Decoder whose output head is the embedding table itself. ids `[N, S]` int64 -> logits `[N, S, vocabulary]`.
class LlamaImpl : public torch::nn::Module {
 public:
  explicit LlamaImpl(const LlamaOptions& options = {}) {
    tok_embeddings = register_module("tok_embeddings", torch::nn::Embedding(options.vocabulary, options.width));
    for (int64_t i = 0; i < options.layers; ++i) layers->push_back(LlamaLayer(options));
    register_module("layers", layers);
    norm = register_module("norm", RmsNorm(options.width, options.epsilon));
    const int64_t size = options.width / options.heads;
    auto frequencies = torch::pow(options.theta, -torch::arange(0, size, 2, torch::kFloat) / size);
    auto angles = torch::outer(torch::arange(options.positions, torch::kFloat), frequencies);
    cosine = register_buffer("freqs_cos", angles.cos());
    sine = register_buffer("freqs_sin", angles.sin());
    torch::NoGradGuard no_grad;
    tok_embeddings->weight.normal_(0, 1 / std::sqrt(static_cast<double>(options.width)));
  }

  torch::Tensor forward(const torch::Tensor& ids) {
    auto x = tok_embeddings(ids);
    auto c = cosine.slice(0, 0, ids.size(1));
    auto s = sine.slice(0, 0, ids.size(1));
    for (const auto& layer : *layers) x = layer->as<LlamaLayer>()->forward(x, c, s);
    return torch::nn::functional::linear(norm(x), tok_embeddings->weight);
  }

 private:
  torch::nn::Embedding tok_embeddings{nullptr};
  torch::nn::ModuleList layers;
  RmsNorm norm{nullptr};
  torch::Tensor cosine, sine;
};
TORCH_MODULE(Llama);

}  // namespace models
