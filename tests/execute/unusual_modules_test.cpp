// Modules as people write them that kernels could get wrong: state, odd strides, results that share memory, bounds and
// weights that are computed.
#include <torch/torch.h>

#include <tuple>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/divergence.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/execute/operator_cases.hpp"
#include "tests/support/catch.hpp"

namespace {

namespace F = torch::nn::functional;

std::shared_ptr<Net> net_of(const std::function<Forward(Net&)>& build) {
  torch::manual_seed(3);
  auto net = std::make_shared<Net>();
  net->body = build(*net);
  net->eval();
  return net;
}

// The compiled module against its own forward.
void check_compiled(const std::function<Forward(Net&)>& build, const torch::Tensor& x,
                    const pare::CaptureOptions& how = {}) {
  const auto net = net_of(build);
  const auto compiled = pare::compile(pare::capture(*net, x, how));
  const auto expected = net->forward(x);
  CHECK(torch::allclose(compiled(x), expected, 1e-4, 1e-5));
  CHECK(torch::allclose(compiled(x), expected, 1e-4, 1e-5));
}

using Pair = std::tuple<torch::Tensor, torch::Tensor>;
struct PairNet : nn::Module {
  Pair forward(const torch::Tensor& x) { return body(x); }
  std::function<Pair(const torch::Tensor&)> body;
};

}  // namespace

TEST_CASE("a compiled model keeps its weights when the module trains on", "[execute]") {
  const torch::NoGradGuard no_grad;
  nn::GroupNorm norm{nullptr};
  const auto net = net_of([&](Net& self) -> Forward {
    auto conv = self.add("conv", nn::Conv2d(3, 8, 3));
    norm = self.add("norm", nn::GroupNorm(2, 8));
    auto slope = self.add("slope", nn::PReLU(nn::PReLUOptions().num_parameters(8)));
    return [=](const torch::Tensor& x) mutable { return slope(norm(conv(x))); };
  });
  const auto x = torch::randn({2, 3, 8, 8});
  const auto compiled = pare::compile(pare::capture(*net, x));
  const auto before = compiled(x);
  for (auto& parameter : net->parameters()) parameter.zero_();
  CHECK(torch::equal(compiled(x), before));
}

TEST_CASE("a transposed weight that two ops read is read in its own order", "[execute]") {
  const torch::NoGradGuard no_grad;
  check_compiled(
      [](Net& net) -> Forward {
        auto p = net.register_parameter("p", torch::randn({4, 8}).t());
        return [=](const torch::Tensor& x) { return torch::minimum(x * p, p); };
      },
      torch::randn({3, 8, 4}));
}

TEST_CASE("state that the forward writes moves on from call to call", "[execute]") {
  const torch::NoGradGuard no_grad;
  const auto build = [](Net& net) -> Forward {
    auto mean = net.register_buffer("mean", torch::zeros({6}));
    auto fc = net.add("fc", nn::Linear(6, 6));
    return [=](const torch::Tensor& x) mutable {
      auto y = fc(x) * 0.1 + mean * 0.9;
      mean.copy_(y.mean(0));
      return y + mean;
    };
  };
  const auto build_cache = [](Net& net) -> Forward {  // written through a view
    auto cache = net.register_buffer("cache", torch::zeros({8, 6}));
    auto fc = net.add("fc", nn::Linear(6, 6));
    return [=](const torch::Tensor& x) mutable {
      cache.slice(0, 0, 4).copy_(cache.slice(0, 4, 8) + x);
      cache.slice(0, 4, 8).copy_(x * 2);
      return fc(x) + cache.sum(0);
    };
  };
  const auto x = torch::randn({4, 6});
  for (const auto& how : std::initializer_list<std::function<Forward(Net&)>>{build, build_cache}) {
    const auto net = net_of(how);
    const auto compiled = pare::compile(pare::capture(*net, x, {.fixed_sizes = true}));
    for (int call = 0; call < 3; ++call) {
      const auto in = x * (call + 1);
      CHECK(torch::allclose(compiled(in), net->forward(in), 1e-5, 1e-6));
    }
  }
}

TEST_CASE("means over slices of images", "[execute]") {
  const torch::NoGradGuard no_grad;
  for (const int64_t width : {1, 2, 16})
    check_compiled(
        [=](Net&) -> Forward {
          return [=](const torch::Tensor& x) { return x.slice(3, 0, width).mean(torch::IntArrayRef{2, 3}); };
        },
        torch::randn({2, 3, 8, 16}));
  check_compiled(
      [](Net& net) -> Forward {
        auto conv = net.add("conv", nn::Conv2d(3, 5, 3));
        return [=](const torch::Tensor& x) mutable {
          return torch::adaptive_avg_pool2d(conv(x).slice(3, 2, 3), {1, 1});
        };
      },
      torch::randn({2, 3, 8, 16}));
}

TEST_CASE("clips whose bound is a size still clip", "[execute]") {
  const torch::NoGradGuard no_grad;
  check_compiled(
      [](Net& net) -> Forward {
        auto fc = net.add("fc", nn::Linear(5, 7));
        return [=](const torch::Tensor& x) mutable { return torch::clamp(fc(x) * 20, 0, x.size(1) - 1); };
      },
      torch::randn({2, 6, 5}), {.dims = {{.name = "batch"}, {.name = "length", .where = {{0, 1}}}}});
}

TEST_CASE("a clip in front of a factor per channel is not left to saturation", "[execute]") {
  const torch::NoGradGuard no_grad;
  const auto net = net_of([](Net& self) -> Forward {
    auto a = self.add("a", nn::Linear(8, 16)), b = self.add("b", nn::Linear(16, 4));
    auto gamma = self.register_parameter("gamma", torch::linspace(0.05, 1, 16));
    return [=](const torch::Tensor& x) mutable { return b(torch::relu6(a(x) * 1) * gamma); };
  });
  const auto x = torch::randn({64, 8}) * 20;
  const auto model = pare::apply(pare::Quantizer{}, pare::capture(*net, x), {.calibration = pare::Batches{x}}).model;
  CHECK(pare::sqnr_db(model(x), pare::compile(model)(x)) > 30);
}

TEST_CASE("results belong to the caller, whatever memory they were made in", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  PairNet net;
  const auto x = torch::randn({3, 4});
  const auto check = [&](std::function<Pair(const torch::Tensor&)> body) {
    net.body = std::move(body);
    const auto compiled = pare::compile(pare::capture(net, x));
    auto input = torch::randn({5, 8}).slice(1, 0, 8, 2);  // not contiguous
    const auto [first, second] = net.forward(input);
    auto made = compiled.run({input});
    const auto again = compiled.run({torch::randn({5, 4})});  // overwrites what is not the caller's
    CHECK(torch::allclose(made[0], first));
    CHECK(torch::allclose(made[1], second));
    made[0].zero_();
    CHECK(torch::allclose(made[1], second));
  };
  check([](const torch::Tensor& in) {
    auto y = torch::relu(in) + 1;
    return Pair(y, y.select(0, 0).select(0, 0));
  });
  check([](const torch::Tensor& in) { return Pair(in + 1, in.select(0, 0).select(0, 0)); });
  check([](const torch::Tensor& in) { return Pair(torch::relu(in), torch::atleast_3d(torch::relu(in))); });
  check([](const torch::Tensor& in) {  // a kernel reads what ATen made, and then ATen a view of it
    auto a = torch::cumsum(in, 1);
    return Pair(torch::relu(a), torch::cumsum(a.transpose(0, 1), 1));
  });
}

TEST_CASE("layers that no kernel can take run on ATen with all that belongs to them", "[execute]") {
  const torch::NoGradGuard no_grad;
  const F::PadFuncOptions causal({2, 0});
  check_compiled(  // weight norm
      [=](Net& net) -> Forward {
        auto v = net.register_parameter("v", torch::randn({6, 4, 3})),
             g = net.register_parameter("g", torch::ones({6, 1, 1}));
        return [=](const torch::Tensor& x) {
          return F::conv1d(F::pad(x, causal), v * (g / v.norm(2, torch::IntArrayRef{1, 2}, true)));
        };
      },
      torch::randn({2, 4, 9}));
  check_compiled(  // a weight that the input decides
      [=](Net& net) -> Forward {
        auto v = net.register_parameter("v", torch::randn({6, 4, 3}));
        return [=](const torch::Tensor& x) { return F::conv1d(F::pad(x, causal), v * x.mean()); };
      },
      torch::randn({2, 4, 9}));
  check_compiled(  // queries that no input decides
      [](Net& net) -> Forward {
        auto latents = net.register_parameter("latents", torch::randn({5, 4}));
        auto fc = net.add("fc", nn::Linear(4, 6));
        return [=](const torch::Tensor& x) mutable { return torch::matmul(x, fc(latents).t()); };
      },
      torch::randn({3, 6}));
  check_compiled(  // positions added behind a projection
      [](Net& net) -> Forward {
        auto positions = net.register_parameter("positions", torch::randn({5, 6}));
        auto fc = net.add("fc", nn::Linear(4, 6));
        return [=](const torch::Tensor& x) mutable { return torch::relu(fc(x) + positions.unsqueeze(0)); };
      },
      torch::randn({1, 5, 4}), {.fixed_sizes = true});
}

TEST_CASE("dropout that is always on stays", "[execute]") {
  const torch::NoGradGuard no_grad;
  const auto net = net_of([](Net& self) -> Forward {
    auto fc = self.add("fc", nn::Linear(16, 16));
    return [=](const torch::Tensor& x) mutable {
      return x + F::dropout(fc(x), F::DropoutFuncOptions().p(0.5).training(true));
    };
  });
  const auto x = torch::randn({4, 16});
  const auto compiled = pare::compile(pare::capture(*net, x, {.verify = false}));
  CHECK_FALSE(torch::equal(compiled(x), compiled(x)));
}

TEST_CASE("a batch norm over another axis than a linear layer's is no part of it", "[execute]") {
  const torch::NoGradGuard no_grad;
  for (const int64_t out : {5, 8}) {  // 8: as many as channels
    const auto net = net_of([&](Net& self) -> Forward {
      auto fc = self.add("fc", nn::Linear(6, out));
      auto norm = self.add("norm", nn::BatchNorm2d(8));
      draw(norm);
      return [=](const torch::Tensor& x) mutable { return torch::relu(norm(fc(x))); };
    });
    const auto x = torch::randn({2, 8, 3, 6});
    const auto model = pare::capture(*net, x);
    const auto quantized = pare::apply(pare::Quantizer{}, model, {.calibration = pare::Batches{x}}).model;
    CHECK(pare::sqnr_db(net->forward(x), quantized(x)) > 25);
    CHECK(pare::sqnr_db(net->forward(x), pare::compile(model)(x)) > 100);
    CHECK(pare::sqnr_db(quantized(x), pare::compile(quantized)(x)) > 30);
  }
}
