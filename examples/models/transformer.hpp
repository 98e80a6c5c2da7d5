#pragma once

#include <torch/torch.h>

#include <cmath>

namespace models {

/// Classifier on LibTorch's own TransformerEncoder, which wants time first. `[N, S]` int64, S <= 256 -> `[N, classes]`.
class TransformerClassifierImpl : public torch::nn::Module {
 public:
  explicit TransformerClassifierImpl(int64_t vocabulary = 1000, int64_t width = 128, int64_t heads = 4,
                                     int64_t hidden = 256, int64_t layers = 2, int64_t classes = 4)
      : scale_(std::sqrt(static_cast<double>(width))),
        embedding(register_module("embedding", torch::nn::Embedding(vocabulary, width))),
        position(register_parameter("position", 0.1 * torch::randn({256, 1, width}))),
        encoder(register_module(
            "encoder",
            torch::nn::TransformerEncoder(
                torch::nn::TransformerEncoderLayer(
                    torch::nn::TransformerEncoderLayerOptions(width, heads).dim_feedforward(hidden).dropout(0.1)),
                layers))),
        fc(register_module("fc", torch::nn::Linear(width, classes))) {
    torch::NoGradGuard no_grad;
    embedding->weight.normal_(0, 1 / scale_);
  }

  torch::Tensor forward(const torch::Tensor& ids) {
    auto x = embedding(ids).transpose(0, 1) * scale_;
    x = x + position.slice(0, 0, x.size(0));
    x = encoder(x);
    return fc(x.mean(0));
  }

 private:
  double scale_;
  torch::nn::Embedding embedding;
  torch::Tensor position;
  torch::nn::TransformerEncoder encoder;
  torch::nn::Linear fc;
};
TORCH_MODULE(TransformerClassifier);

}  // namespace models
