// Sizes that a kernel refuses, graphs without a plan, and one result asked of several.
#include <torch/torch.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/graph/graph_builder.hpp"
#include "pare/graph/verify.hpp"
#include "tests/execute/operator_cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using torch::Tensor;

struct ExecuteErrorHeads : nn::Module {
  ExecuteErrorHeads() { fc = register_module("fc", nn::Linear(6, 4)); }
  std::vector<Tensor> forward(const Tensor& x) {
    const auto y = fc(x);
    return {y, torch::relu(y)};
  }
  nn::Linear fc{nullptr};
};

}  // namespace

TEST_CASE("an image smaller than the kernel is refused by the layer's name, and others run after it", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  Net net;
  auto conv = net.add("conv", nn::Conv2d(nn::Conv2dOptions(3, 8, 5)));
  net.body = [=](const Tensor& x) mutable { return torch::relu(conv(x)); };
  const auto model =
      pare::capture(net, torch::randn({2, 3, 32, 32}), {.dims = {{.name = "height", .where = {{0, 2}}}}});
  const auto compiled = pare::compile(model);
  const std::string id = pare::execution_backend() == "ATen" ? "pare.run.105" : "pare.execute.104";
  for (const std::int64_t height : {4, 3, 1}) {  // a kernel of 5: nothing, or less than nothing, would be left
    const auto small = torch::randn({2, 3, height, 32});
    const auto call = [&] { static_cast<void>(compiled(small)); };
    CHECK(raises("pare.run.105", [&] { static_cast<void>(model(small)); }));
    CHECK(raises(id, call));
    CHECK(raises(id, call));  // no plan was kept
    CHECK(path_raised(call) == "conv");
  }
  const auto large = torch::randn({2, 3, 40, 32});
  CHECK(torch::allclose(compiled(large), net.forward(large), 1e-4, 1e-5));
}

TEST_CASE("windows larger than what they are laid on are refused", "[execute]") {
  const torch::NoGradGuard no_grad;
  Net net;
  net.body = [](const Tensor& x) { return torch::max_pool2d(x, 3, 1); };
  const auto model = pare::capture(net, torch::randn({2, 3, 8, 8}), {.dims = {{.name = "height", .where = {{0, 2}}}}});
  const auto compiled = pare::compile(model);
  const std::string id = pare::execution_backend() == "ATen" ? "pare.run.105" : "pare.execute.104";
  for (const std::int64_t height : {2, 1}) {
    CHECK(raises("pare.run.105", [&] { static_cast<void>(model(torch::randn({2, 3, height, 8}))); }));
    CHECK(raises(id, [&] { static_cast<void>(compiled(torch::randn({2, 3, height, 8}))); }));
  }
  const auto x = torch::randn({2, 3, 3, 8});
  CHECK(torch::equal(compiled(x), net.forward(x)));
}

TEST_CASE("values that the forward decided by are compared in compiled models, too", "[execute]") {
  const torch::NoGradGuard no_grad;
  struct Same : nn::Module {
    Tensor forward(const Tensor& a, const Tensor& b) { return torch::equal(a, b) ? a * 2 : a + b; }
  } net;
  const auto a = torch::ones({3, 4}), b = torch::zeros({3, 4});
  const auto compiled = pare::compile(pare::capture(net, std::make_tuple(a, b)));
  const auto call = [&] { static_cast<void>(compiled(a, a.clone())); };
  CHECK(raises("pare.run.106", call));
  CHECK(path_raised(call) == "equal");
  CHECK(torch::equal(compiled(b, a), net.forward(b, a)));

  struct Switch : nn::Module {
    Switch() { doubled = register_buffer("doubled", torch::zeros({}, torch::kBool)); }
    Tensor forward(const Tensor& x) { return doubled.item<bool>() ? x * 2 : torch::relu(x); }
    Tensor doubled;
  } gated;
  const auto model = pare::capture(gated, a);
  CHECK(torch::equal(pare::compile(model)(a), gated.forward(a)));
  gated.doubled.fill_(true);
  const auto other = pare::compile(model);
  CHECK(raises("pare.run.106", [&] { static_cast<void>(other(a)); }));
}

TEST_CASE("a graph that reads what only training computes is not compiled, and the layer is named", "[execute]") {
  pare::GraphBuilder build;
  const pare::TensorType type{torch::kFloat, {pare::SymbolicInt::dim(build.dim("batch", 2)), 4}};
  const auto x = build.input("x", type);
  const auto drawn = build.node(pare::Op("aten::relu"), {x}, {type}, "block.relu", "block");
  build.last().condition = pare::Condition::Training;
  build.output(build.output_of(build.node(pare::Op("aten::tanh"), {build.output_of(drawn)}, {type}, "block.tanh")));
  const pare::Model model(std::move(build).finish(), {});
  CHECK(raises("pare.graph.207", [&] { pare::verify(model); }));
  CHECK(raises("pare.graph.207", [&] { static_cast<void>(pare::compile(model)); }));
}

TEST_CASE("a compiled model picks no result out of several", "[execute]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  ExecuteErrorHeads net;
  const auto x = torch::randn({2, 6});
  const auto compiled = pare::compile(pare::capture(net, x));
  CHECK(raises("pare.run.107", [&] { static_cast<void>(compiled(x)); }));
  const auto results = compiled.run({x});
  REQUIRE(results.size() == 2);
  CHECK(torch::allclose(results[1], net.forward(x)[1], 1e-4, 1e-5));
}

TEST_CASE("a compiled model refuses inputs of one batch that disagree about its size", "[execute]") {
  const torch::NoGradGuard no_grad;
  struct Sum : nn::Module {
    Tensor forward(const Tensor& a, const Tensor& b) { return torch::relu(a) + b; }
  } net;
  const auto x = torch::randn({3, 4});
  const auto compiled = pare::compile(pare::capture(net, std::make_tuple(x, x + 1), {.input_names = {"a", "b"}}));
  const auto run = [&] { static_cast<void>(compiled(x, torch::randn({2, 4}))); };
  CHECK(raises("pare.run.104", run));
  CHECK(path_raised(run) == "b");
  CHECK(torch::allclose(compiled(x, x), net.forward(x, x)));
}
