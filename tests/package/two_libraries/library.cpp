#include <pare/capture/capture.hpp>

#include <torch/torch.h>

struct Net : torch::nn::Module {
  torch::nn::BatchNorm1d norm{register_module("norm", torch::nn::BatchNorm1d(4))};
  torch::nn::Dropout dropout{register_module("dropout", torch::nn::Dropout(0.5))};
  torch::Tensor forward(const torch::Tensor& x) { return dropout(norm(x)); }
};

/// Captures a module in both modes and compares the model's output with the module's.
__attribute__((visibility("default"))) bool NAME() {
  Net net;
  const auto model = pare::capture(net, torch::randn({3, 4}));
  net.eval();
  const auto x = torch::randn({6, 4});
  return model(x).equal(net.forward(x));
}
