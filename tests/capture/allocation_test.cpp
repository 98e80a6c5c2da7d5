// Memory that the forward asks for and fills itself.
#include <torch/torch.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "pare/capture/capture.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using torch::Tensor;

struct AllocationNet : torch::nn::Module {
  explicit AllocationNet(std::function<Tensor(const Tensor&)> what) : body(std::move(what)) {
    fc = register_module("fc", torch::nn::Linear(4, 4));
  }
  Tensor forward(const Tensor& x) { return body(fc(x)); }
  torch::nn::Linear fc{nullptr};
  std::function<Tensor(const Tensor&)> body;
};

const std::vector<std::function<Tensor(const Tensor&)>> kAllocations{
    [](const Tensor& y) {
      auto v = torch::empty_like(y);
      v.copy_(y);
      return v * 2;
    },
    [](const Tensor& y) {
      auto v = torch::empty({4});
      v.copy_(y.mean(0));
      return y + v;
    },
    [](const Tensor& y) {
      auto v = torch::empty({y.size(0), 8});
      v.slice(1, 0, 4).copy_(y);
      v.slice(1, 4).copy_(torch::relu(y));
      return v.tanh();
    },
    [](const Tensor& y) {
      auto v = y.clone();
      v.select(1, 0).zero_();
      v.slice(1, 2, 3).zero_();
      return v + (y + 1).zero_();
    },
    [](const Tensor& y) {
      auto v = torch::empty(0);
      at::cat_out(v, {y, y}, 1);
      return v;
    },
};

}  // namespace

TEST_CASE("memory of torch::empty is filled, trained through and shared by no two runs", "[capture]") {
  for (std::size_t i = 0; i < kAllocations.size(); ++i) {
    INFO("allocation " << i);
    torch::manual_seed(1);
    AllocationNet net(kAllocations[i]);
    const auto x = torch::randn({3, 4}), rows = torch::randn({7, 4});
    if (i == kAllocations.size() - 1) {  // at::cat_out takes nothing that is differentiated
      const torch::NoGradGuard no_grad;
      CHECK(torch::equal(pare::capture(net, x)(rows), net.forward(rows)));
      continue;
    }
    auto model = pare::capture(net, x);
    CHECK(torch::equal(model(rows), net.forward(rows)));
    model.train();
    for (int step = 0; step < 2; ++step) {
      net.zero_grad();
      net.forward(rows).sum().backward();
      const auto expected = net.fc->weight.grad().clone();
      net.zero_grad();
      model(rows).sum().backward();
      CHECK(torch::equal(net.fc->weight.grad(), expected));
    }
    const auto mine = torch::randn({5, 4});
    std::atomic<int> right = 0;
    std::vector<std::thread> threads;
    for (const auto& input : {rows, mine})
      threads.emplace_back([&, input] {
        const torch::NoGradGuard quiet;
        for (int run = 0; run < 50; ++run) right += torch::equal(model(input), net.forward(input)) ? 1 : 0;
      });
    for (auto& thread : threads) thread.join();
    CHECK(right == 100);
  }
}

TEST_CASE("buffers that a forward resizes or sets to other memory are put back", "[capture]") {
  const torch::NoGradGuard no_grad;
  struct Moving : torch::nn::Module {
    Moving() { last = register_buffer("last", torch::ones({2})); }
    Tensor forward(const Tensor& x) {
      if (set) {
        last.set_(x);
      } else {
        last.resize_({8});
      }
      return x + 1;
    }
    bool set = false;
    Tensor last;
  } net;
  for (const bool set : {true, false}) {
    net.set = set;
    const auto* memory = net.last.const_data_ptr();
    CHECK(raises("pare.capture.112", [&] { static_cast<void>(pare::capture(net, torch::randn({3, 4}))); }));
    CHECK(torch::equal(net.last, torch::ones({2})));
    if (set) CHECK(net.last.const_data_ptr() == memory);
  }
}
