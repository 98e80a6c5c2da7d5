#include "my_pass.hpp"
#include <torch/torch.h>
#include <pare/capture/capture.hpp>

int main() {
  torch::nn::Sequential net(torch::nn::Linear(2, 2), torch::nn::ReLU());
  auto bounded = pare::apply(ReluToRelu6{}, pare::capture(*net, torch::ones({2, 2})));
  auto x = torch::full({3, 2}, 100.0);
  fmt::print("{}", bounded.report);
  return bounded.model(x).equal(net->forward(x).clamp_max(6)) ? 0 : 1;
}
