// What a compiled model is given that it can not take, and results that must be nobody else's.
#include <torch/torch.h>

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/execute/operator_cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace F = torch::nn::functional;
using torch::Tensor;

struct Two : nn::Module {
  std::tuple<Tensor, Tensor> forward(const Tensor& x) { return body(x); }
  std::function<std::tuple<Tensor, Tensor>(const Tensor&)> body;
};

}  // namespace

TEST_CASE("inputs that do not lie in the CPU's memory are refused", "[execute]") {
  if (pare::execution_backend() == "ATen") {
    WARN("skipped: this build has no oneDNN: ATen takes any memory");
    return;
  }
  Net net;
  auto fc = net.add("fc", nn::Linear(6, 4));
  net.body = [=](const Tensor& x) mutable { return fc(x); };
  const auto compiled = pare::compile(pare::capture(net, torch::randn({2, 6})));
  CHECK(raises("pare.run.109", [&] { (void)compiled(torch::empty({2, 6}, torch::kMeta)); }));
  CHECK(raises("pare.run.109", [&] { (void)compiled(torch::randn({2, 6}).to_sparse()); }));
  CHECK(raises("pare.run.109", [&] { (void)compiled.profile({torch::empty({2, 6}, torch::kMeta)}, 0.01); }));
}

TEST_CASE("results share memory with no input and no other result", "[execute]") {
  const torch::NoGradGuard no_grad;
  Two net;
  net.body = [](const Tensor& x) { return std::make_tuple(x.clone(), torch::cumsum(x, 1)); };
  const auto compiled = pare::compile(pare::capture(net, torch::randn({2, 6})));
  const auto x = torch::ones({2, 6});
  auto results = compiled.run({x});
  results[0].zero_();
  CHECK(x.eq(1).all().item<bool>());

  Two twice;
  twice.body = [](const Tensor& y) {
    const auto sums = torch::cumsum(y, 1);
    return std::make_tuple(sums, sums.clone());
  };
  const auto copies = pare::compile(pare::capture(twice, torch::randn({2, 6})));
  results = copies.run({x});
  results[0].zero_();
  CHECK(torch::equal(results[1], torch::cumsum(x, 1)));
}

TEST_CASE("softplus has its own threshold", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  for (const double threshold : {1.0, 20.0}) {
    Net net;
    auto fc = net.add("fc", nn::Linear(6, 16));
    net.body = [=](const Tensor& x) mutable {
      return F::softplus(fc(x), F::SoftplusFuncOptions().beta(1).threshold(threshold));
    };
    const auto x = torch::randn({8, 6}) * 4;
    CHECK(torch::allclose(pare::compile(pare::capture(net, x))(x), net.forward(x), 1e-4, 1e-5));
  }
}

TEST_CASE("dropout that is always on doubles what it leaves, in int8 too", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  Net net;
  auto fc = net.add("fc", nn::Linear(16, 512));
  auto head = net.add("head", nn::Linear(512, 8));
  net.body = [=](const Tensor& x) mutable {
    return head(F::dropout(torch::relu(fc(x)), F::DropoutFuncOptions().p(0.5).training(true)));
  };
  net.eval();
  const auto x = torch::randn({64, 16});
  const auto model = pare::capture(net, x, {.verify = false});
  const auto int8 = pare::apply(pare::Quantizer{}, model, {.calibration = pare::Batches{x}}).model;
  const auto compiled = pare::compile(int8);
  Tensor mean = torch::zeros({64, 8}), expected = torch::zeros({64, 8});
  constexpr int kRuns = 400;
  for (int run = 0; run < kRuns; ++run) mean += compiled(x) / kRuns, expected += net.forward(x) / kRuns;
  CHECK_FALSE(torch::equal(compiled(x), compiled(x)));
  // Its average is that of the module: clipped at the range in front of the dropout it would be far below.
  CHECK(pare::sqnr_db(expected, mean) > 12.0);
  CHECK((expected - mean).abs().mean().item<double>() < 0.2 * expected.abs().mean().item<double>());
}

TEST_CASE("an index beyond a quantized table is the error that the Model has", "[execute]") {
  const torch::NoGradGuard no_grad;
  Net net;
  auto table = net.add("table", nn::Embedding(10, 16));
  auto fc = net.add("fc", nn::Linear(16, 4));
  net.body = [=](const Tensor& ids) mutable { return fc(table(ids)); };
  const auto ids = torch::randint(0, 10, {4, 3});
  const auto model = pare::capture(net, ids);
  const auto int8 = pare::apply(pare::Quantizer{}, model, {.calibration = pare::Batches{ids}}).model;
  const auto compiled = pare::compile(int8);
  const auto wrong = torch::full({4, 3}, 10);
  CHECK(raises("pare.run.105", [&] { (void)int8(wrong); }));
  CHECK(raises("pare.run.105", [&] { (void)compiled(wrong); }));
  CHECK(torch::isfinite(compiled(ids)).all().item<bool>());
}

TEST_CASE("windows over a size that the capture could not tell are refused, not cut short", "[execute]") {
  const torch::NoGradGuard no_grad;
  if (pare::execution_backend() == "ATen") {
    WARN("skipped: this build has no oneDNN: ATen finds its sizes itself");
    return;
  }
  Net net;
  net.body = [](const Tensor& x) { return torch::max_pool2d(x, 3, 2, 1); };
  const auto model =
      pare::capture(net, torch::randn({2, 3, 64, 64}), {.dims = {{.name = "height", .where = {{0, 2}}}}});
  const auto compiled = pare::compile(model);
  const auto even = torch::randn({2, 3, 96, 64}), odd = torch::randn({2, 3, 41, 64});
  CHECK(torch::equal(compiled(even), net.forward(even)));
  CHECK(torch::equal(model(odd), net.forward(odd)));
  CHECK(raises("pare.execute.103", [&] { (void)compiled(odd); }));
}

TEST_CASE("Models are copied while another thread runs them for the first time", "[execute]") {
  const torch::NoGradGuard no_grad;
  Net net;
  auto fc = net.add("fc", nn::Linear(6, 4));
  net.body = [=](const Tensor& x) mutable { return torch::relu(fc(x)); };
  const auto x = torch::randn({2, 6}), expected = net.forward(x);
  for (int round = 0; round < 50; ++round) {
    const auto model = pare::capture(net, x);
    std::atomic<int> right = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] {
        const torch::NoGradGuard quiet;
        const auto copy = model;
        right += torch::equal(copy(x), expected) && torch::equal(model(x), expected) ? 1 : 0;
      });
    for (auto& thread : threads) thread.join();
    CHECK(right == 4);
  }
}

TEST_CASE("layers in bf16 say so, and plans that were dropped are built again", "[execute]") {
  const torch::NoGradGuard no_grad;
  if (pare::execution_backend() == "ATen") {
    WARN("skipped: this build has no oneDNN: ATen computes in float32");
    return;
  }
  torch::manual_seed(4);
  Net net;
  auto a = net.add("a", nn::Linear(32, 32));
  auto b = net.add("b", nn::Linear(32, 8));
  net.body = [=](const Tensor& x) mutable { return b(torch::relu(a(x))); };
  const auto model = pare::capture(net, torch::randn({2, 32}));
  const auto compiled = pare::compile(model, {.node_precision = {{"a", torch::kBFloat16}}, .plans = 2});
  for (const int64_t batch : {2, 3, 4, 5, 2, 3}) {
    const auto x = torch::randn({batch, 32});
    CHECK(pare::sqnr_db(net.forward(x), compiled(x)) > 30.0);
  }
  std::map<std::string, std::string> precision;
  for (const auto& row : compiled.report().rows) precision[row.name] = row.precision;
  CHECK(precision.at("a").starts_with("bf"));
  CHECK(precision.at("b") == "float32");
}
