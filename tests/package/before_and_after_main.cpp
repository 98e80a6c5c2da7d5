// A model that lives longer than main: made by a thread before it, run by another one at exit.
#include <pare/capture/capture.hpp>
#include <pare/execute/compile.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <thread>

namespace {

struct Net : torch::nn::Module {
  torch::nn::Linear fc{register_module("fc", torch::nn::Linear(4, 3))};
  torch::Tensor forward(const torch::Tensor& x) { return torch::relu(fc(x)); }
};

class Service {
 public:
  Service() {
    std::thread([this] { model_ = compiled(); }).join();
  }
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;
  ~Service() {
    std::thread([this] {
      const torch::NoGradGuard no_grad;
      const auto x = torch::randn({7, 4});
      if ((*model_)(x).size(0) == 7 && compiled()(x).size(0) == 7) return;
      std::puts("at exit the model gives something else");
      std::_Exit(1);
    }).join();
  }

 private:
  static pare::CompiledModel compiled() {
    Net net;
    net.eval();
    return pare::compile(pare::capture(net, torch::randn({2, 4})));
  }

  std::optional<pare::CompiledModel> model_;
};

const Service service;

}  // namespace
