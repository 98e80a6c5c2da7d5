// Inputs on which a captured module would do something else than was captured, or that contradict each other.
#include <torch/torch.h>

#include <string>
#include <tuple>
#include <vector>

#include "pare/capture/capture.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using torch::Tensor;

struct RunErrorSum : nn::Module {
  RunErrorSum() { fc = register_module("fc", nn::Linear(4, 4)); }
  Tensor forward(const Tensor& a, const Tensor& b) { return fc(a) + b; }
  nn::Linear fc{nullptr};
};

// Goes the way that a buffer of its own tells it.
struct RunErrorSwitch : nn::Module {
  RunErrorSwitch() {
    fc = register_module("fc", nn::Linear(4, 4));
    doubled = register_buffer("doubled", torch::zeros({}, torch::kBool));
    eval();
  }
  Tensor forward(const Tensor& x) {
    const auto y = fc(x);
    return doubled.item<bool>() ? y * 2 : y;
  }
  nn::Linear fc{nullptr};
  Tensor doubled;
};

struct RunErrorSame : nn::Module {
  Tensor forward(const Tensor& a, const Tensor& b) { return torch::equal(a, b) ? a * 2 : a - b; }
};

struct RunErrorPair : nn::Module {
  RunErrorPair() { fc = register_module("fc", nn::Linear(4, 4)); }
  std::tuple<Tensor, Tensor> forward(const Tensor& x) {
    const auto y = fc(x);
    return {y, torch::relu(y)};
  }
  nn::Linear fc{nullptr};
};

}  // namespace

TEST_CASE("inputs of one batch must agree about its size", "[run]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  RunErrorSum net;
  const auto a = torch::randn({3, 4}), b = torch::randn({3, 4});
  const auto model = pare::capture(net, std::make_tuple(a, b), {.input_names = {"query", "offset"}});
  // A batch of 1 would be broadcast: that was not captured either.
  for (const std::int64_t other : {1, 2, 5}) {
    const auto call = [&] { static_cast<void>(model(a, torch::randn({other, 4}))); };
    CHECK(raises("pare.run.104", call));
    CHECK(path_raised(call) == "offset");
  }
  CHECK(torch::equal(model(a, b), net.forward(a, b)));
}

TEST_CASE("a buffer that the forward decides by is compared in every run", "[run]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  RunErrorSwitch net;
  const auto x = torch::randn({3, 4});
  const auto model = pare::capture(net, x);
  net.doubled.fill_(true);
  const auto call = [&] { static_cast<void>(model(x)); };
  CHECK(raises("pare.run.106", call));
  CHECK(path_raised(call) == "item");
  CHECK(torch::equal(pare::capture(net, x)(x), net.forward(x)));
  net.doubled.fill_(false);
  CHECK(torch::equal(model(x), net.forward(x)));
}

TEST_CASE("inputs that are equal where those of the capture were not take no path unseen", "[run]") {
  const torch::NoGradGuard no_grad;
  RunErrorSame net;
  const auto a = torch::ones({3, 4}), b = torch::zeros({3, 4});
  const auto model = pare::capture(net, std::make_tuple(a, b));
  const auto call = [&] { static_cast<void>(model(a, a.clone())); };
  CHECK(raises("pare.run.106", call));
  CHECK(path_raised(call) == "equal");
  CHECK(torch::equal(model(b, a), net.forward(b, a)));
}

TEST_CASE("what the libraries under a kernel refuse is an error of the layer", "[run]") {
  const torch::NoGradGuard no_grad;
  nn::Sequential net(nn::ConvTranspose2d(nn::ConvTranspose2dOptions(3, 8, 3).padding(2)));
  const auto model = pare::capture(*net, torch::randn({2, 3, 8, 8}), {.dims = {{.name = "height", .where = {{0, 2}}}}});
  const auto call = [&] { static_cast<void>(model(torch::randn({2, 3, 1, 8}))); };
  CHECK(raises("pare.run.105", call));
  CHECK(path_raised(call) == "0");
}

TEST_CASE("one result is not picked out of several", "[run]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  RunErrorPair net;
  const auto x = torch::randn({3, 4});
  const auto model = pare::capture(net, x);
  CHECK(raises("pare.run.107", [&] { static_cast<void>(model(x)); }));
  const auto results = model.run({x});
  REQUIRE(results.size() == 2);
  CHECK(torch::equal(results[1], std::get<1>(net.forward(x))));
}
