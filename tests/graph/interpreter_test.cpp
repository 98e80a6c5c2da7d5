#include "pare/graph/interpreter.hpp"

#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "tests/support/catch.hpp"

namespace {

using Tensors = std::vector<torch::Tensor>;

struct Holder : torch::nn::Module {
  Holder() { weight = register_parameter("weight", torch::randn({6, 6})); }
  torch::Tensor weight;
};

pare::Model captured(Holder& holder, const std::function<torch::Tensor(const torch::Tensor&)>& forward) {
  return pare::capture_forward(holder, [&](const Tensors& in) -> Tensors { return {forward(in[0])}; },
                               {torch::randn({3, 6})});
}

}  // namespace

TEST_CASE("without autograd a result takes the memory of an operand that nothing else needs", "[graph]") {
  Holder holder;
  const auto model = captured(holder, [&](const torch::Tensor& x) { return x.matmul(holder.weight).relu().mul(2.0); });
  const auto x = torch::randn({4, 6});
  const void *product = nullptr, *rectified = nullptr;
  const auto watch = [&](pare::ValueId id, const torch::Tensor& tensor) {
    const auto* node = model.graph().producer(id);
    if (node && node->is("aten::matmul")) product = tensor.data_ptr();
    if (node && node->is("aten::relu")) rectified = tensor.data_ptr();
  };
  {
    const torch::NoGradGuard no_grad;
    const auto y = model.run({x}, watch).at(0);
    CHECK(y.data_ptr() == product);
    CHECK(torch::equal(y, x.matmul(holder.weight).relu().mul(2.0)));
  }
  const auto y = model.run({x}, watch).at(0);
  CHECK(rectified != product);  // each of these two is alive while the next one is made
  CHECK(y.data_ptr() != rectified);
  y.sum().backward();
  const auto gradient = torch::autograd::grad({x.matmul(holder.weight).relu().mul(2.0).sum()}, {holder.weight});
  CHECK(torch::equal(holder.weight.grad(), gradient[0]));
}

TEST_CASE("memory that somebody else sees is not written", "[graph]") {
  const torch::NoGradGuard no_grad;
  Holder holder;
  const auto x = torch::randn({4, 6}), before = x.clone(), weight = holder.weight.clone();
  const auto check = [&](const std::function<torch::Tensor(const torch::Tensor&)>& forward) {
    const auto model = captured(holder, forward);
    const auto expected = forward(x);
    Tensors seen;  // what a tap keeps is somebody else's too
    static_cast<void>(model.run({x}, [&](pare::ValueId, const torch::Tensor& tensor) { seen.push_back(tensor); }));
    const auto kept = seen.at(1).clone();
    CHECK(torch::equal(model(x), expected));
    CHECK(torch::equal(seen.at(1), kept));
    CHECK(torch::equal(x, before));
    CHECK(torch::equal(holder.weight, weight));
  };
  check([](const torch::Tensor& in) { return in.relu().neg(); });
  check([](const torch::Tensor& in) { return in.view({-1}).relu(); });
  check([](const torch::Tensor& in) { return torch::dropout(in, 0.5, false).relu(); });
  check([&](const torch::Tensor& in) { return in.matmul(holder.weight.t().relu()); });
  check([](const torch::Tensor& in) { return in.sum(1, true).expand({-1, 6}).mul(in); });
  check([](const torch::Tensor& in) {  // the first operand is read again, through a view and as itself
    const auto doubled = in.mul(2.0);
    return doubled.slice(1, 0, 3).add(doubled.relu().slice(1, 3, 6)).mul(doubled.slice(1, 1, 4));
  });
}

TEST_CASE("outputs given twice stay apart from what follows", "[graph]") {
  const torch::NoGradGuard no_grad;
  torch::nn::Module module;
  const auto model = pare::capture_forward(module,
                                           [](const Tensors& in) -> Tensors {
                                             const auto a = in[0].mul(3.0);
                                             return {a, a.relu(), a};
                                           },
                                           {torch::randn({2, 4})});
  const auto x = torch::randn({5, 4});
  const auto y = model.run({x});
  CHECK(torch::equal(y[0], x.mul(3.0)));
  CHECK(torch::equal(y[1], x.mul(3.0).relu()));
  CHECK(torch::equal(y[2], y[0]));
}
