// What a consumer does first: capture a module, run the model, compile it.
#include <pare/capture/capture.hpp>
#include <pare/execute/compile.hpp>

#include <torch/torch.h>

#include <cstdio>

struct Net : torch::nn::Module {
  torch::nn::Linear fc{register_module("fc", torch::nn::Linear(4, 3))};
  torch::Tensor forward(const torch::Tensor& x) { return torch::relu(fc(x)); }
};

int main() {
  Net net;
  net.eval();
  const torch::NoGradGuard no_grad;
  const auto model = pare::capture(net, torch::randn({2, 4}));
  const auto x = torch::randn({5, 4});
  const bool same = model(x).equal(net.forward(x));
  const auto compiled = pare::compile(model);
  const bool close = compiled(x).allclose(net.forward(x), 1e-5, 1e-6);
  std::printf("replay %s, compiled %s on %s\n", same ? "equal" : "differs", close ? "close" : "differs",
              compiled.report().backend.c_str());
  return same && close ? 0 : 1;
}
