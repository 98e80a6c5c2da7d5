// Sizes that vary and are no batch, and writes and views that only show at another size or in another memory.
#include <torch/torch.h>

#include <algorithm>
#include <functional>
#include <string>

#include "pare/capture/capture.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using torch::Tensor;

struct Written : torch::nn::Module {
  explicit Written(std::function<Tensor(const Tensor&)> what) : body(std::move(what)) {}
  Tensor forward(const Tensor& x) { return body(x); }
  std::function<Tensor(const Tensor&)> body;
};

pare::CaptureOptions height(std::int64_t other = 0) {
  return {.dims = {{.name = "height", .where = {{0, 2}}, .other_size = other}}};
}

}  // namespace

TEST_CASE("a half is not taken for a difference: a third size is compared", "[capture]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  Written halves([](const Tensor& x) { return x.slice(2, 0, x.size(2) / 2); });
  const auto x = torch::randn({2, 3, 32, 4});
  // 31 and 32 have halves of 15 and 16, as if 16 were taken off.
  CHECK(raises("pare.capture.143", [&] { (void)pare::capture(halves, x, height(31)); }));
  for (const std::int64_t example : {32, 24, 30}) {  // beside 16, 16 and 28
    const auto model = pare::capture(halves, torch::randn({2, 3, example, 4}), height());
    for (const std::int64_t size : {8, 33, 64}) {
      const auto other = torch::randn({2, 3, size, 4});
      CHECK(torch::equal(model(other), halves.forward(other)));
    }
  }
}

TEST_CASE("a module that takes no third size is captured, and the Model says so", "[capture]") {
  const torch::NoGradGuard no_grad;
  const auto table = torch::randn({32, 4});
  Written positions([&](const Tensor& x) { return x + table.slice(0, 0, x.size(2)); });
  const auto model = pare::capture(positions, torch::randn({2, 3, 32, 4}), height(16));
  CHECK(std::ranges::any_of(model.notes(),
                            [](const std::string& note) { return note.find("no third size") != std::string::npos; }));
  const auto other = torch::randn({2, 3, 20, 4});
  CHECK(torch::equal(model(other), positions.forward(other)));
}

TEST_CASE("varying sizes that make no sense are one error each", "[capture]") {
  Written same([](const Tensor& x) { return x * 2; });
  const auto x = torch::randn({2, 3, 32, 4});
  CHECK(raises("pare.capture.102", [&] { (void)pare::capture(same, x, height(32)); }));
  const std::vector<pare::VaryingDim> five{{"a", {{0, 0}}}, {"b", {{0, 1}}}, {"c", {{0, 2}}}, {"d", {{0, 3}}}, {}};
  CHECK(raises("pare.capture.102", [&] { (void)pare::capture(same, x, {.dims = five}); }));
}

TEST_CASE("training mode is left out when it is not wanted", "[capture]") {
  Written same([](const Tensor& x) { return torch::relu(x); });
  auto model = pare::capture(same, torch::randn({2, 3}), {.training = false});
  CHECK_FALSE(model.can_train());
  CHECK(raises("pare.graph.105", [&] { model.train(); }));
}

TEST_CASE("comparisons in place leave numbers of the tensor's own dtype", "[capture]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  Written gated([](const Tensor& x) {
    auto mask = x.clone();
    mask.gt_(0.25);
    auto other = x.clone();
    other.logical_not_();
    return mask * x + other;
  });
  const auto x = torch::randn({4, 6});
  const auto model = pare::capture(gated, x);
  for (const auto id : model.graph().nodes()) {
    const auto& node = model.graph().node(id);
    INFO(node.op.name());
    if (node.is("aten::gt") || node.is("aten::logical_not"))
      CHECK(model.graph().value(node.output()).type.dtype == torch::kBool);
    if (node.is("aten::mul")) CHECK(model.graph().value(node.input(0)).type.dtype == torch::kFloat);
  }
  CHECK(torch::equal(model(x), gated.forward(x)));
}

TEST_CASE("results of views with gaps are dense, as kernels make them", "[capture]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  Written sliced([](const Tensor& x) { return torch::relu(x.slice(2, 0, 5)).view({x.size(0), -1}); });
  Written gated([](const Tensor& x) { return torch::gelu(x.chunk(2, -1)[1]).view({x.size(0), -1}); });
  const auto x = torch::randn({2, 3, 8, 4});
  for (auto* net : {&sliced, &gated}) CHECK(torch::equal(pare::capture(*net, x)(x), net->forward(x)));
}

TEST_CASE("a half that is rounded otherwise at odd sizes is in the notes", "[capture]") {
  const torch::NoGradGuard no_grad;
  Written rows([](const Tensor& x) { return x.slice(2, 0, (x.size(2) + 1) / 2); });
  const auto model = pare::capture(rows, torch::randn({2, 3, 64, 4}), height());
  CHECK(std::ranges::any_of(model.notes(), [](const std::string& note) {
    return note.find("[2, 3, 65, 4]") != std::string::npos && note.find("same remainders") != std::string::npos;
  }));
  const auto even = torch::randn({2, 3, 96, 4});
  CHECK(torch::equal(model(even), rows.forward(even)));
}
