#pragma once

#include <torch/torch.h>

#include <cmath>
#include <tuple>

namespace models {

/// Shape of a BERT-like encoder (Devlin et al. 2018).
struct BertOptions {
  int64_t vocabulary = 30522;
  int64_t positions = 512;
  int64_t layers = 6;
  int64_t width = 384;
  int64_t heads = 12;
  int64_t hidden = 1536;
  double dropout = 0.1;
  double epsilon = 1e-12;
};

/// Word + position + token-type embeddings, normalised. ids `[N, S]` -> `[N, S, width]`.
class BertEmbeddingsImpl : public torch::nn::Module {
 public:
  explicit BertEmbeddingsImpl(const BertOptions& options)
      : word_embeddings(register_module("word_embeddings", torch::nn::Embedding(options.vocabulary, options.width))),
        position_embeddings(
            register_module("position_embeddings", torch::nn::Embedding(options.positions, options.width))),
        token_type_embeddings(register_module("token_type_embeddings", torch::nn::Embedding(2, options.width))),
        layer_norm(register_module(
            "LayerNorm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({options.width}).eps(options.epsilon)))),
        dropout(register_module("dropout", torch::nn::Dropout(options.dropout))) {}

  torch::Tensor forward(const torch::Tensor& ids) {
    auto positions = torch::arange(ids.size(1), ids.options()).unsqueeze(0);
    auto x = word_embeddings(ids) + token_type_embeddings(torch::zeros_like(ids));
    x += position_embeddings(positions);
    return dropout(layer_norm(x));
  }

 private:
  torch::nn::Embedding word_embeddings, position_embeddings, token_type_embeddings;
  torch::nn::LayerNorm layer_norm;
  torch::nn::Dropout dropout;
};
TORCH_MODULE(BertEmbeddings);

/// Separate query, key and value projections; `bias` `[N, 1, 1, S]` is added to the scores.
class BertSelfAttentionImpl : public torch::nn::Module {
 public:
  explicit BertSelfAttentionImpl(const BertOptions& options)
      : heads_(options.heads),
        size_(options.width / options.heads),
        query(register_module("query", torch::nn::Linear(options.width, options.width))),
        key(register_module("key", torch::nn::Linear(options.width, options.width))),
        value(register_module("value", torch::nn::Linear(options.width, options.width))),
        dropout(register_module("dropout", torch::nn::Dropout(options.dropout))) {}

  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& bias) {
    auto q = split_heads(query(x));
    auto k = split_heads(key(x));
    auto v = split_heads(value(x));
    auto scores = torch::matmul(q, k.transpose(-1, -2)) / std::sqrt(static_cast<double>(size_));
    auto weights = dropout(torch::softmax(scores + bias, -1));
    auto context = torch::matmul(weights, v).permute({0, 2, 1, 3}).contiguous();
    return context.view({context.size(0), context.size(1), heads_ * size_});
  }

 private:
  torch::Tensor split_heads(const torch::Tensor& x) const {
    return x.view({x.size(0), x.size(1), heads_, size_}).permute({0, 2, 1, 3});
  }

  int64_t heads_, size_;
  torch::nn::Linear query, key, value;
  torch::nn::Dropout dropout;
};
TORCH_MODULE(BertSelfAttention);

/// Projection, residual, normalisation: the end of both halves of a layer.
class BertOutputImpl : public torch::nn::Module {
 public:
  BertOutputImpl(int64_t in, const BertOptions& options)
      : dense(register_module("dense", torch::nn::Linear(in, options.width))),
        layer_norm(register_module(
            "LayerNorm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({options.width}).eps(options.epsilon)))),
        dropout(register_module("dropout", torch::nn::Dropout(options.dropout))) {}

  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& residual) {
    return layer_norm(dropout(dense(x)) + residual);
  }

 private:
  torch::nn::Linear dense;
  torch::nn::LayerNorm layer_norm;
  torch::nn::Dropout dropout;
};
TORCH_MODULE(BertOutput);

/// Self-attention with its output projection.
class BertAttentionImpl : public torch::nn::Module {
 public:
  explicit BertAttentionImpl(const BertOptions& options)
      : self(register_module("self", BertSelfAttention(options))),
        output(register_module("output", BertOutput(options.width, options))) {}

  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& bias) { return output(self(x, bias), x); }

 private:
  BertSelfAttention self;
  BertOutput output;
};
TORCH_MODULE(BertAttention);

/// The widening half of the feed-forward network, with the erf GELU.
class BertIntermediateImpl : public torch::nn::Module {
 public:
  explicit BertIntermediateImpl(const BertOptions& options)
      : dense(register_module("dense", torch::nn::Linear(options.width, options.hidden))) {}

  torch::Tensor forward(const torch::Tensor& x) { return torch::gelu(dense(x)); }

 private:
  torch::nn::Linear dense;
};
TORCH_MODULE(BertIntermediate);

/// One post-norm transformer layer.
class BertLayerImpl : public torch::nn::Module {
 public:
  explicit BertLayerImpl(const BertOptions& options)
      : attention(register_module("attention", BertAttention(options))),
        intermediate(register_module("intermediate", BertIntermediate(options))),
        output(register_module("output", BertOutput(options.hidden, options))) {}

  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& bias) {
    auto y = attention(x, bias);
    return output(intermediate(y), y);
  }

 private:
  BertAttention attention;
  BertIntermediate intermediate;
  BertOutput output;
};
TORCH_MODULE(BertLayer);

/// The stack of layers.
class BertEncoderImpl : public torch::nn::Module {
 public:
  explicit BertEncoderImpl(const BertOptions& options) {
    for (int64_t i = 0; i < options.layers; ++i) layer->push_back(BertLayer(options));
    register_module("layer", layer);
  }

  torch::Tensor forward(torch::Tensor x, const torch::Tensor& bias) {
    for (const auto& module : *layer) x = module->as<BertLayer>()->forward(x, bias);
    return x;
  }

 private:
  torch::nn::ModuleList layer;
};
TORCH_MODULE(BertEncoder);

/// Token ids `[N, S]` int64 and a mask `[N, S]` of 1 (token) and 0 (padding) -> hidden states `[N, S, width]`.
class BertImpl : public torch::nn::Module {
 public:
  explicit BertImpl(const BertOptions& options = {})
      : embeddings(register_module("embeddings", BertEmbeddings(options))),
        encoder(register_module("encoder", BertEncoder(options))) {
    torch::NoGradGuard no_grad;
    for (auto& module : modules(false)) {
      if (auto* linear = module->as<torch::nn::Linear>()) {
        linear->weight.normal_(0, 1 / std::sqrt(static_cast<double>(options.width)));
        linear->bias.zero_();
      } else if (auto* embedding = module->as<torch::nn::Embedding>()) {
        embedding->weight.normal_(0, 0.05);
      }
    }
  }

  torch::Tensor forward(const torch::Tensor& ids, const torch::Tensor& mask) {
    auto x = embeddings(ids);
    auto bias = (1.0 - mask.unsqueeze(1).unsqueeze(2).to(x.scalar_type())) * -10000.0;
    return encoder(x, bias);
  }

 private:
  BertEmbeddings embeddings;
  BertEncoder encoder;
};
TORCH_MODULE(Bert);

/// Sentence classifier: the mean of the hidden states over the tokens that are not padding, brought to length one, then
/// a linear layer. ids and mask `[N, S]` -> `[N, classes]`.
class SentenceClassifierImpl : public BertImpl {
 public:
  explicit SentenceClassifierImpl(const BertOptions& options = {}, int64_t classes = 2)
      : BertImpl(options), classifier(register_module("classifier", torch::nn::Linear(options.width, classes))) {}

  torch::Tensor forward(const torch::Tensor& ids, const torch::Tensor& mask) {
    auto hidden = BertImpl::forward(ids, mask);
    auto keep = mask.unsqueeze(-1).to(hidden.scalar_type());
    auto mean = (hidden * keep).sum(1) / keep.sum(1);
    mean = torch::nn::functional::normalize(mean, torch::nn::functional::NormalizeFuncOptions().dim(1));
    return classifier(mean);
  }

 private:
  torch::nn::Linear classifier;
};
TORCH_MODULE(SentenceClassifier);

}  // namespace models
