// What depends on nothing but sizes and constants is computed once for each size, and nothing else is.
#include <torch/torch.h>

#include <algorithm>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/execute/operator_cases.hpp"
#include "tests/support/catch.hpp"

namespace {

bool is_constant_row(const pare::ExecutionReport& report, const std::string& op) {
  const auto row = std::ranges::find(report.rows, op, &pare::ExecutionReport::Row::op);
  REQUIRE(row != report.rows.end());
  return row->implementation == "constant";
}

// Tokens to scores: positions from a range of their own, token types all zero, a causal mask.
struct Tokens : nn::Module {
  Tokens() {
    words = register_module("words", nn::Embedding(50, 16));
    types = register_module("types", nn::Embedding(2, 16));
    positions = register_module("positions", nn::Embedding(40, 16));
    query = register_module("query", nn::Linear(16, 16));
    key = register_module("key", nn::Linear(16, 16));
    value = register_module("value", nn::Linear(16, 16));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& tokens) {
    const auto length = tokens.size(1);
    const auto x =
        words(tokens) + types(torch::zeros_like(tokens)) + positions(torch::arange(length, torch::kLong).unsqueeze(0));
    const auto future = torch::ones({length, length}).triu(1) * -1e9;
    const auto scores = torch::matmul(query(x), key(x).transpose(1, 2)) / 4.0 + future;
    return torch::matmul(scores.softmax(-1), value(x));
  }
  nn::Embedding words{nullptr}, types{nullptr}, positions{nullptr};
  nn::Linear query{nullptr}, key{nullptr}, value{nullptr};
};

}  // namespace

TEST_CASE("positions, types and masks are computed once for each length", "[execute]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  Tokens net;
  const auto tokens = [](int64_t batch, int64_t length) { return torch::randint(50, {batch, length}); };
  const auto model = pare::capture(net, tokens(2, 12), {.dims = {{"batch", {{0, 0}}}, {"length", {{0, 1}}}}});
  const auto quantized = pare::apply(pare::Quantizer{}, model, {.calibration = pare::Batches{tokens(8, 12)}}).model;
  const auto compiled = pare::compile(model), packed = pare::compile(quantized);
  for (const auto& [batch, length] : {std::pair<int64_t, int64_t>{2, 12}, {3, 29}, {1, 1}, {2, 12}}) {
    INFO(batch << " of " << length);
    const auto x = tokens(batch, length);
    CHECK(torch::allclose(compiled(x), net.forward(x), 1e-4, 1e-5));
    CHECK(torch::allclose(packed(x), quantized(x), 0.02, 0.02));
  }
  for (const auto* one : {&compiled, &packed}) {
    const auto report = one->report();
    for (const auto* op : {"aten::arange", "aten::zeros_like", "aten::triu"}) CHECK(is_constant_row(report, op));
    const auto computed = std::ranges::count_if(
        report.rows, [](const auto& row) { return row.op == "aten::embedding" && row.implementation == "constant"; });
    CHECK(computed == 2);
  }
  CHECK_THROWS(compiled(tokens(1, 41)));  // more positions than there are
  CHECK_THROWS(packed(torch::full({1, 4}, 50, torch::kLong)));
  const auto x = tokens(2, 12);
  CHECK(torch::allclose(compiled(x), net.forward(x), 1e-4, 1e-5));
}

TEST_CASE("a result that is computed once belongs to each caller", "[execute]") {
  const torch::NoGradGuard no_grad;
  Net net;
  net.body = [](const torch::Tensor& x) { return torch::linspace(0, 1, 5) * 2 + torch::zeros_like(x).mean(); };
  const auto x = torch::randn({3, 4});
  const auto compiled = pare::compile(pare::capture(net, x));
  auto first = compiled(x);
  first.fill_(7);
  CHECK(torch::allclose(compiled(x), torch::linspace(0, 1, 5) * 2));
}

TEST_CASE("random numbers, state and large results are not computed once", "[execute]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  const auto x = torch::randn({4, 3});
  SECTION("random numbers") {
    Net net;
    net.body = [](const torch::Tensor& y) { return y + torch::rand({3}); };
    const auto compiled = pare::compile(pare::capture(net, x));
    CHECK_FALSE(torch::equal(compiled(x), compiled(x)));
  }
  SECTION("state that the forward writes") {
    Net net;
    auto calls = net.register_buffer("calls", torch::zeros({3}));
    net.body = [=](const torch::Tensor& y) mutable {
      calls.add_(1);
      return y + calls.exp();
    };
    const auto compiled = pare::compile(pare::capture(net, x));
    const auto before = compiled(x);
    CHECK(torch::allclose(compiled(x) - x, (before - x) * std::exp(1.0), 1e-3));
  }
  SECTION("large results") {
    Net net;
    net.body = [](const torch::Tensor& y) { return y + torch::ones({5'000'000}).cumsum(0).narrow(0, 2, 3); };
    const auto compiled = pare::compile(pare::capture(net, x));
    CHECK(torch::allclose(compiled(x), net.forward(x)));
    CHECK_FALSE(is_constant_row(compiled.report(), "aten::ones"));
  }
}
