#pragma once

#include <torch/torch.h>

#include <tuple>

namespace models {

/// Bidirectional LSTM over token ids, mean over time. `[N, S]` int64 -> `[N, classes]`.
class LstmClassifierImpl : public torch::nn::Module {
 public:
  explicit LstmClassifierImpl(int64_t vocabulary = 1000, int64_t width = 64, int64_t hidden = 128, int64_t layers = 2,
                              int64_t classes = 4)
      : embedding(register_module("embedding", torch::nn::Embedding(vocabulary, width))),
        lstm(register_module("lstm", torch::nn::LSTM(torch::nn::LSTMOptions(width, hidden)
                                                         .num_layers(layers)
                                                         .batch_first(true)
                                                         .bidirectional(true)
                                                         .dropout(0.1)))),
        fc(register_module("fc", torch::nn::Linear(2 * hidden, classes))) {}

  torch::Tensor forward(const torch::Tensor& ids) {
    auto [output, state] = lstm(embedding(ids));
    return fc(output.mean(1));
  }

 private:
  torch::nn::Embedding embedding;
  torch::nn::LSTM lstm;
  torch::nn::Linear fc;
};
TORCH_MODULE(LstmClassifier);

/// GRU over token ids, time first; the last hidden state is classified. `[N, S]` int64 -> `[N, classes]`.
class GruClassifierImpl : public torch::nn::Module {
 public:
  explicit GruClassifierImpl(int64_t vocabulary = 1000, int64_t width = 64, int64_t hidden = 128, int64_t classes = 4)
      : embedding(register_module("embedding", torch::nn::Embedding(vocabulary, width))),
        gru(register_module("gru", torch::nn::GRU(torch::nn::GRUOptions(width, hidden)))),
        fc(register_module("fc", torch::nn::Linear(hidden, classes))) {}

  torch::Tensor forward(const torch::Tensor& ids) {
    auto x = embedding(ids).transpose(0, 1);
    auto hidden = std::get<1>(gru(x));
    return fc(hidden[-1]);
  }

 private:
  torch::nn::Embedding embedding;
  torch::nn::GRU gru;
  torch::nn::Linear fc;
};
TORCH_MODULE(GruClassifier);

}  // namespace models
