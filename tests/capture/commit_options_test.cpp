// How closely a commit is checked, with which forward, and on what.
#include <torch/torch.h>

#include <limits>

#include "pare/capture/commit.hpp"
#include "pare/graph/rewriter.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using torch::Tensor;

struct Committable : torch::nn::Module {
  Committable() {
    first = register_module("first", torch::nn::Linear(4, 8));
    second = register_module("second", torch::nn::Linear(8, 3));
    eval();
  }
  Tensor hidden(const Tensor& x) { return torch::relu(first(x)); }
  // Knows how many hidden units there are.
  Tensor forward(const Tensor& x) { return second(hidden(x).view({x.size(0), 8})); }
  // The same, as it would be written for a module that is pruned.
  Tensor at_any_width(const Tensor& x) { return second(hidden(x).view({x.size(0), first->weight.size(0)})); }
  torch::nn::Linear first{nullptr}, second{nullptr};
};

struct CommitFixture {
  CommitFixture() {
    torch::manual_seed(0);
    net = std::make_shared<Committable>();
    model = pare::capture(net, x = torch::randn({2, 4}));
    before = net->second->bias.detach().clone();
    model.set_weight("second.bias", before + 1);
  }
  [[nodiscard]] bool is_untouched() const { return torch::equal(net->second->bias, before); }
  [[nodiscard]] bool is_refused(const pare::CommitOptions& options) const {
    return raises("pare.commit.111", [&] { pare::commit(model, net, options); }) && is_untouched();
  }
  std::shared_ptr<Committable> net;
  pare::Model model;
  Tensor x, before;
};

// The module's forward with its outputs made larger by a share.
pare::ModuleForward enlarged(double share) {
  return [share](torch::nn::Module& module, const std::vector<Tensor>& inputs) {
    return std::vector<Tensor>{dynamic_cast<Committable&>(module).forward(inputs[0]) * (1 + share)};
  };
}

}  // namespace

TEST_CASE("a commit allows the difference that it is told, of the largest output", "[commit]") {
  CommitFixture fixture;
  CHECK(fixture.is_refused({.forward = enlarged(1e-3)}));
  CHECK(fixture.is_refused({.tolerance = 0.9e-3, .forward = enlarged(1e-3)}));
  auto committed = pare::commit(fixture.model, fixture.net, {.tolerance = 1.1e-3, .forward = enlarged(1e-3)});
  CHECK(torch::equal(fixture.net->second->bias, fixture.before + 1));
  committed.roll_back();
  CHECK(fixture.is_untouched());
  (void)pare::commit(fixture.model, fixture.net, {.forward = enlarged(1e-7)});
}

TEST_CASE("a tolerance that no difference could be held against is refused", "[commit]") {
  CommitFixture fixture;
  for (const double tolerance : {std::numeric_limits<double>::quiet_NaN(), -1e-5}) {
    const auto call = [&] { pare::commit(fixture.model, fixture.net, {.tolerance = tolerance}); };
    CHECK(raises("pare.commit.105", call));
    CHECK(fixture.is_untouched());
  }
  // Nothing but the same numbers.
  (void)pare::commit(fixture.model, fixture.net, {.tolerance = 0});
  CHECK_FALSE(fixture.is_untouched());
}

TEST_CASE("the tolerance of a commit knows no units", "[commit]") {
  for (const double scale : {1e-4, 1e4}) {
    CommitFixture fixture;
    const auto scaled = [&](const char* path) {
      fixture.model.set_weight(path, fixture.model.weight(path).detach() * scale);
    };
    scaled("second.weight");
    scaled("second.bias");
    CHECK(fixture.is_refused({.tolerance = 0.9e-3, .forward = enlarged(1e-3)}));
    (void)pare::commit(fixture.model, fixture.net, {.tolerance = 1.1e-3, .forward = enlarged(1e-3)});
    CHECK_FALSE(fixture.is_untouched());
  }
}

TEST_CASE("a commit runs the forward that it is given instead of the one that was captured", "[commit]") {
  CommitFixture fixture;
  auto& net = *fixture.net;
  auto model = pare::capture(net, fixture.x);
  const std::vector<std::int64_t> kept{0, 2, 3, 5, 7};
  pare::Rewriter rewriter(model);
  rewriter.narrow("first.weight", 0, kept);
  rewriter.narrow("first.bias", 0, kept);
  rewriter.narrow("second.weight", 1, kept);
  for (const auto id : model.graph().nodes(pare::op("aten::view"))) {
    auto sizes = *model.graph().node(id).operand(1).get<pare::Operand::Ints>();
    sizes[1] = 5;
    rewriter.set_operand(id, 1, sizes);
  }
  CHECK(raises("pare.commit.111", [&] { pare::commit(model, net); }));
  CHECK(net.first->weight.size(0) == 8);
  int runs = 0;
  const pare::ModuleForward widthless = [&runs](torch::nn::Module& module, const std::vector<Tensor>& inputs) {
    ++runs;
    return std::vector<Tensor>{dynamic_cast<Committable&>(module).at_any_width(inputs.at(0))};
  };
  (void)pare::commit(model, net, {.forward = widthless});
  CHECK(runs > 0);
  CHECK(net.first->weight.size(0) == 5);
  CHECK(torch::allclose(net.at_any_width(fixture.x), model(fixture.x), 0, 1e-6));
}

TEST_CASE("a Model of a module's part is checked with the forward that made it", "[commit]") {
  CommitFixture fixture;
  auto& net = *fixture.net;
  const pare::ModuleForward hidden = [](torch::nn::Module& module, const std::vector<Tensor>& inputs) {
    return std::vector<Tensor>{dynamic_cast<Committable&>(module).hidden(inputs.at(0))};
  };
  auto part = pare::capture_module(net, hidden, {fixture.x});
  part.set_weight("first.bias", torch::ones({8}));
  const pare::ModuleForward whole = [](torch::nn::Module& module, const std::vector<Tensor>& inputs) {
    return std::vector<Tensor>{dynamic_cast<Committable&>(module).forward(inputs.at(0))};
  };
  CHECK(raises("pare.commit.111", [&] { pare::commit(part, net, {.forward = whole}); }));
  CHECK(pare::commit(part, net).tensors() == std::vector<std::string>{"first.bias"});
  CHECK(torch::equal(net.hidden(fixture.x), part(fixture.x)));
}

TEST_CASE("a forward that throws, or is another module's, is refused and leaves everything as it was", "[commit]") {
  CommitFixture fixture;
  CHECK(fixture.is_refused({.forward = [](torch::nn::Module&, const std::vector<Tensor>&) -> std::vector<Tensor> {
    throw std::runtime_error("out of order");
  }}));
  const pare::ModuleForward foreign = [](torch::nn::Module& module, const std::vector<Tensor>& inputs) {
    return std::vector<Tensor>{dynamic_cast<torch::nn::LinearImpl&>(module).forward(inputs.at(0))};
  };
  CHECK(raises("pare.commit.102", [&] { pare::commit(fixture.model, fixture.net, {.forward = foreign}); }));
  CHECK(fixture.is_untouched());
}

TEST_CASE("a commit is checked on inputs like the example that it is given", "[commit]") {
  CommitFixture fixture;
  double largest = 0;
  // Right below 10, wrong above.
  const pare::ModuleForward bounded = [&](torch::nn::Module& module, const std::vector<Tensor>& inputs) {
    largest = std::max(largest, inputs.at(0).max().item<double>());
    const auto y = dynamic_cast<Committable&>(module).forward(inputs[0]);
    return std::vector<Tensor>{inputs[0].max().item<double>() > 10 ? y * 2 : y};
  };
  CHECK(fixture.is_refused({.forward = bounded, .example = {torch::full({2, 4}, 20.0)}}));
  CHECK(largest > 10);
  largest = 0;
  (void)pare::commit(fixture.model, fixture.net, {.forward = bounded});
  CHECK(largest < 10);
  CHECK(torch::equal(fixture.net->second->bias, fixture.before + 1));
}
