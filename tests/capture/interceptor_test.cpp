// Who sees which calls, for how long, and what is left when one of them throws.
#include "pare/capture/interceptor.hpp"

#include <torch/torch.h>

#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "pare/capture/capture.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using Calls = std::vector<std::string>;

// Writes down what it sees and lets it run.
struct Listener : pare::Interceptor {
  void call(const c10::OperatorHandle& op, torch::jit::Stack& stack) override {
    calls.push_back(op.schema().name());
    if (op.schema().name() == refused) throw std::runtime_error("not this one");
    if (op.schema().name() == doubled) {
      const auto x = torch::jit::pop(stack).toTensor();
      torch::jit::push(stack, torch::tanh(x) * 0 + x * 2);  // calls of its own
      return;
    }
    op.callBoxed(stack);
  }
  Calls calls;
  std::string refused, doubled;
};

struct ListenedNet : torch::nn::Module {
  explicit ListenedNet(bool stops = false) : throws(stops) {
    fc = register_module("fc", torch::nn::Linear(4, 4));
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = torch::relu(fc(x));
    if (throws) throw std::runtime_error("no such file");
    return y;
  }
  bool throws;
  torch::nn::Linear fc{nullptr};
};

}  // namespace

TEST_CASE("composite calls arrive whole, and only while they are listened to", "[interceptor]") {
  const torch::NoGradGuard no_grad;
  const auto x = torch::randn({2, 3, 8, 8}), kernel = torch::randn({4, 3, 3, 3}), rows = torch::randn({5, 8});
  const auto expected = torch::linear(torch::conv2d(x, kernel), rows.slice(1, 0, 6));
  const auto narrow = rows.slice(1, 0, 6);
  const auto listener = std::make_shared<Listener>();
  torch::Tensor seen;
  {
    const pare::Interception interception(listener);
    seen = torch::linear(torch::conv2d(x, kernel), narrow);
  }
  CHECK(listener->calls == Calls{"aten::conv2d", "aten::linear"});
  CHECK(torch::equal(seen, expected));
  (void)torch::relu(x);
  CHECK(listener->calls.size() == 2);
}

TEST_CASE("gradients flow through calls that are listened to", "[interceptor]") {
  const auto x = torch::ones({3}).requires_grad_(true);
  torch::Tensor y;
  {
    const pare::Interception interception(std::make_shared<Listener>());
    y = torch::mul(x, x).sum();
  }
  y.backward();
  CHECK(torch::equal(x.grad(), torch::full({3}, 2.0)));
}

TEST_CASE("a call may be replaced, and what replaces it is not seen again", "[interceptor]") {
  const torch::NoGradGuard no_grad;
  const auto x = torch::randn({4});
  const auto listener = std::make_shared<Listener>();
  listener->doubled = "aten::relu";
  torch::Tensor twice;
  {
    const pare::Interception interception(listener);
    twice = torch::relu(x);
  }
  CHECK(torch::equal(twice, x * 2));
  CHECK(listener->calls == Calls{"aten::relu"});
}

TEST_CASE("an interception inside another one gives back what it took", "[interceptor]") {
  const torch::NoGradGuard no_grad;
  const auto x = torch::randn({4});
  const auto outer = std::make_shared<Listener>(), inner = std::make_shared<Listener>();
  {
    const pare::Interception first(outer);
    (void)torch::relu(x);
    CHECK(outer->calls == Calls{"aten::relu"});
    {
      const pare::Interception second(inner);
      (void)torch::tanh(x);
      {
        const pare::Interception again(outer);
        outer->calls.clear();
        (void)torch::exp(x);
        CHECK(outer->calls == Calls{"aten::exp"});
      }
      (void)torch::sin(x);
    }
    CHECK(inner->calls == Calls{"aten::tanh", "aten::sin"});
    outer->calls.clear();
    (void)torch::abs(x);
    CHECK(outer->calls == Calls{"aten::abs"});
  }
  (void)torch::abs(x);
  CHECK(outer->calls.size() == 1);
  CHECK(inner->calls.size() == 2);
}

TEST_CASE("a call that fails under an interception leaves it and the one around it working", "[interceptor]") {
  const torch::NoGradGuard no_grad;
  const auto x = torch::randn({2, 3});
  const auto outer = std::make_shared<Listener>(), inner = std::make_shared<Listener>();
  inner->refused = "aten::exp";
  const pare::Interception first(outer);
  try {
    const pare::Interception second(inner);
    CHECK_THROWS_AS(torch::mm(x, x), c10::Error);        // LibTorch refuses
    CHECK_THROWS_AS(torch::exp(x), std::runtime_error);  // the interceptor does
    (void)torch::tanh(x);
    CHECK(inner->calls == Calls{"aten::mm", "aten::exp", "aten::tanh"});
    (void)torch::exp(x);
    FAIL("exp was let through");
  } catch (const std::runtime_error& error) {
    CHECK(std::string(error.what()) == "not this one");
  }
  outer->calls.clear();
  const auto y = torch::relu(x);
  CHECK(outer->calls == Calls{"aten::relu"});
  CHECK(y.ge(0).all().item<bool>());
  CHECK(inner->calls.size() == 4);
}

TEST_CASE("other threads see nothing", "[interceptor]") {
  const torch::NoGradGuard no_grad;
  const auto x = torch::randn({4});
  const auto here = std::make_shared<Listener>(), there = std::make_shared<Listener>();
  const pare::Interception interception(here);
  std::thread([&] {
    const torch::NoGradGuard quiet;
    (void)torch::relu(x);
    const pare::Interception own(there);
    (void)torch::tanh(x);
  }).join();
  CHECK(here->calls.empty());
  CHECK(there->calls == Calls{"aten::tanh"});
}

TEST_CASE("a capture inside an interception is what it is outside, failed or not", "[interceptor]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(0);
  ListenedNet net, broken(true);
  const auto example = torch::randn({2, 4}), x = torch::randn({3, 4});
  const auto alone = pare::capture(net, example);
  const auto expected = net.forward(x);
  const auto listener = std::make_shared<Listener>();
  const pare::Interception interception(listener);
  const auto listened = pare::capture(net, example);
  REQUIRE(listened.graph().nodes().size() == alone.graph().nodes().size());
  for (std::size_t i = 0; i < alone.graph().nodes().size(); ++i)
    CHECK(listened.graph().node(listened.graph().nodes()[i]).op == alone.graph().node(alone.graph().nodes()[i]).op);
  CHECK(torch::equal(listened(x), expected));
  CHECK(raises("pare.capture.104", [&] { (void)pare::capture(broken, example); }));
  listener->calls.clear();
  (void)torch::relu(x);
  CHECK(listener->calls == Calls{"aten::relu"});
}
