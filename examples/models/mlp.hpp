#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

namespace models {

/// Fully connected classifier. `[N, ...]` with `widths[0]` elements a sample -> `[N, widths.back()]`.
class MlpImpl : public torch::nn::Module {
 public:
  explicit MlpImpl(const std::vector<int64_t>& widths) {
    for (size_t i = 0; i + 1 < widths.size(); ++i) {
      layers->push_back(torch::nn::Linear(widths[i], widths[i + 1]));
    }
    register_module("layers", layers);
  }

  torch::Tensor forward(torch::Tensor x) {
    x = x.view({x.size(0), -1});
    for (size_t i = 0; i < layers->size(); ++i) {
      x = layers->ptr<torch::nn::LinearImpl>(i)->forward(x);
      if (i + 1 < layers->size()) x.relu_();
    }
    return x;
  }

 private:
  torch::nn::ModuleList layers;
};
TORCH_MODULE(Mlp);

}  // namespace models
