// What users' modules look like beyond one tensor in, one tensor out.
#include <torch/torch.h>

#include <limits>
#include <optional>
#include <thread>

#include "pare/capture/capture.hpp"
#include "pare/core/error.hpp"
#include "tests/support/catch.hpp"

namespace {

using torch::Tensor;

struct Found {
  Tensor boxes;
  std::vector<Tensor> scores;
  int count = 0;
};
auto pare_fields(Found& found) { return std::tie(found.boxes, found.scores); }

struct Query {
  Tensor tokens;
  std::optional<Tensor> mask;
  double scale = 1.0;
};
auto pare_fields(Query& query) { return std::tie(query.tokens, query.mask); }

struct StructsImpl : torch::nn::Module {
  StructsImpl() {
    shared = register_module("shared", torch::nn::Linear(6, 6));
    alias = register_module("alias", shared);
  }
  Found forward(const Query& query, std::pair<Tensor, Tensor> extra) {
    auto x = shared(query.tokens) * query.scale;
    if (query.mask) x = x.masked_fill(query.mask->logical_not(), 0.0);
    auto again = torch::tanh(alias(x + extra.first));
    return {again, {x, extra.second.sum(1)}, 2};
  }
  torch::nn::Linear shared{nullptr}, alias{nullptr};
};
TORCH_MODULE(Structs);

struct SquareFunction : torch::autograd::Function<SquareFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, Tensor x) {
    context->save_for_backward({x});
    return x * x;
  }
  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               torch::autograd::tensor_list gradients) {
    return {gradients[0] * context->get_saved_variables()[0] * 2};
  }
};

struct AttentionImpl : torch::nn::Module {
  AttentionImpl() {
    attention = register_module("attention", torch::nn::MultiheadAttention(8, 2));
    blocks = register_module("blocks", torch::nn::ModuleList(torch::nn::Linear(8, 8), torch::nn::Linear(8, 8)));
    scale = torch::full({8}, 0.5);  // never registered
  }
  Tensor forward(Tensor x) {  // [length, batch, 8]
    auto [y, weights] = attention(x, x, x);
    for (const auto& block : *blocks) y = SquareFunction::apply(block->as<torch::nn::Linear>()->forward(y));
    const auto offsets = torch::tensor({1.F, 2.F, 3.F, 4.F, 5.F, 6.F, 7.F, 8.F});
    return y * scale + offsets + weights.sum();
  }
  torch::nn::MultiheadAttention attention{nullptr};
  torch::nn::ModuleList blocks{nullptr};
  Tensor scale;
};
TORCH_MODULE(Attention);

struct ThreadedImpl : torch::nn::Module {
  ThreadedImpl() { fc = register_module("fc", torch::nn::Linear(4, 4)); }
  Tensor forward(Tensor x) {
    Tensor hidden;
    std::thread([&] { hidden = x.detach() * 2; }).join();
    return fc(hidden);
  }
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(Threaded);

struct ThrowingImpl : torch::nn::Module {
  ThrowingImpl() { fc = register_module("fc", torch::nn::Linear(4, 4)); }
  Tensor forward(Tensor x) {
    fc(x);
    throw std::runtime_error("no such checkpoint\nsecond line");
  }
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(Throwing);

struct PoolImpl : torch::nn::Module {
  PoolImpl() {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3).stride(2).padding(1)));
  }
  Tensor forward(Tensor x) {
    x = conv(x);
    return x.reshape({x.size(0) * x.size(2), x.size(3) * 4}).mean(1).view({x.size(0), -1});
  }
  torch::nn::Conv2d conv{nullptr};
};
TORCH_MODULE(Pool);

// Trains with an extra head and functional dropout; evaluates without.
struct ModesImpl : torch::nn::Module {
  ModesImpl() {
    fc = register_module("fc", torch::nn::Linear(6, 6));
    noise = register_module("noise", torch::nn::Linear(6, 6));
  }
  Tensor forward(Tensor x) {
    x = fc(x);
    if (is_training()) x = torch::dropout(noise(x), 0.5, true) + x;
    return x.relu();
  }
  torch::nn::Linear fc{nullptr}, noise{nullptr};
};
TORCH_MODULE(Modes);

struct OverwriterImpl : torch::nn::Module {
  OverwriterImpl() { fc = register_module("fc", torch::nn::Linear(4, 4)); }
  Tensor forward(Tensor x) { return fc(x.mul_(2)) * std::numeric_limits<double>::quiet_NaN() + x; }
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(Overwriter);

struct CountingImpl : torch::nn::Module {
  CountingImpl() {
    first = register_module("first", torch::nn::Linear(4, 4));
    norm = register_module("norm", torch::nn::BatchNorm1d(4));
  }
  std::int64_t forward(const Tensor& x) { return norm(first(x)).numel(); }
  torch::nn::Linear first{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(Counting);

struct NestedImpl : torch::nn::Module {
  NestedImpl() { fc = register_module("fc", torch::nn::Linear(4, 4)); }
  Tensor forward(Tensor x) { return pare::capture(fc, torch::randn({2, 4}))(x); }
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(Nested);

template <class Capture>
std::string error_id(const Capture& capture) {
  try {
    static_cast<void>(capture());
  } catch (const pare::Error& error) {
    UNSCOPED_INFO(error.what());
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
    return error.id();
  }
  return "no error";
}

}  // namespace

TEST_CASE("structs, optionals and pairs in; structs out; one module under two names, called twice", "[capture]") {
  Structs net;
  net->eval();
  const auto make = [](std::int64_t n) {
    return std::make_tuple(Query{torch::randn({n, 6}), torch::rand({n, 6}) > 0.5, 2.0},
                           std::make_pair(torch::randn({n, 6}), torch::randn({n, 3})));
  };
  auto model = pare::capture(net, make(2), {.input_names = {"tokens", "mask"}});
  CHECK(model.graph().inputs().size() == 4);
  CHECK(model.graph().value(model.graph().inputs()[1]).name == "mask");
  CHECK(model.weights().size() == 2);
  CHECK(model.weights().at("shared.weight").aliases == std::vector<std::string>{"alias.weight"});
  CHECK(model.weight("alias.weight").is_same(net->shared->weight));
  CHECK(model.graph().nodes(pare::op("aten::addmm")).size() == 2);
  const auto input = make(5);
  const auto expected = pare::tensors_of(std::apply([&](auto&... a) { return net->forward(a...); }, input));
  const auto actual = model.run(pare::tensors_of(input));
  REQUIRE(actual.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) CHECK(torch::equal(actual[i], expected[i]));
}

TEST_CASE("attention, module lists, custom autograd functions and tensors made in place", "[capture]") {
  Attention net;
  net->eval();
  const pare::CaptureOptions options{.dims = {{"length", {{0, 0}}}, {"batch", {{0, 1}}}}};
  auto model = pare::capture(net, torch::randn({5, 3, 8}), options);
  for (const auto& [length, batch] : {std::pair{5, 3}, {7, 2}, {9, 4}}) {
    const auto x = torch::randn({length, batch, 8});
    CHECK(torch::equal(model(x), net(x)));
  }
  CHECK(model.graph().dims() == std::vector<std::string>{"length", "batch"});
  // The unregistered tensor is followed, not copied.
  net->scale.mul_(3);
  const auto x = torch::randn({4, 2, 8});
  CHECK(torch::equal(model(x), net(x)));
}

TEST_CASE("a transformer's decoder looks at the encoder in both modes, whether lengths agree or not", "[capture]") {
  torch::manual_seed(5);
  torch::nn::Transformer net(torch::nn::TransformerOptions(32, 4, 2, 2).dim_feedforward(48));
  const auto check = [&](const pare::Model& model, std::int64_t source, std::int64_t target) {
    const auto x = torch::randn({source, 3, 32}), y = torch::randn({target, 3, 32});
    torch::manual_seed(9);  // of the dropouts
    const auto expected = net->forward(x, y);
    torch::manual_seed(9);
    CHECK(torch::allclose(model.run({x, y}).at(0), expected, 1e-4, 1e-5));
  };
  const auto both_modes = [&](pare::Model model, const std::vector<std::pair<std::int64_t, std::int64_t>>& lengths) {
    REQUIRE(model.can_train());
    for (const bool training : {false, true}) {
      net->train(training);
      model.train(training);
      for (const auto& [source, target] : lengths) check(model, source, target);
    }
  };
  const auto example = [](std::int64_t source, std::int64_t target) {
    return std::make_tuple(torch::randn({source, 3, 32}), torch::randn({target, 3, 32}));
  };
  both_modes(pare::capture(net, example(10, 12)), {{10, 12}, {7, 7}, {4, 9}});
  both_modes(pare::capture(net, example(6, 6), {.fixed_sizes = true}), {{6, 6}});
}

TEST_CASE("sizes may vary in several dimensions, products of them included", "[capture]") {
  Pool net;
  const pare::CaptureOptions options{.dims = {{"batch", {{0, 0}}}, {"height", {{0, 2}}}, {"width", {{0, 3}}}}};
  auto model = pare::capture(net, torch::randn({2, 3, 64, 64}), options);
  for (const auto& [b, h, w] : {std::tuple{1, 32, 64}, {3, 96, 32}, {5, 40, 56}}) {
    const auto x = torch::randn({b, 3, h, w});
    CHECK(torch::equal(model(x), net(x)));
  }
  CHECK(error_id([&] { return model(torch::randn({2, 4, 64, 64})); }) == "pare.run.103");
  CHECK(error_id([&] { return model(torch::randn({2, 3, 64, 64}, torch::kDouble)); }) == "pare.run.102");
  CHECK(error_id([&] { return model(torch::randn({3, 64, 64})); }) == "pare.run.103");
  CHECK(error_id([&] { return model(torch::randn({2, 3, 64, 64}), torch::zeros({1})); }) == "pare.run.101");
}

TEST_CASE("what only one mode computes runs in that mode", "[capture]") {
  Modes net;
  auto model = pare::capture(net, torch::randn({3, 6}));
  REQUIRE(model.can_train());
  const auto x = torch::randn({4, 6});
  net->eval();
  CHECK(torch::equal(model(x), net(x)));
  net->train();
  model.train();
  torch::manual_seed(11);
  const auto expected = net(x);
  torch::manual_seed(11);
  CHECK(torch::equal(model(x), expected));
}

TEST_CASE("other dtypes, and grad mode on or off, make the same model", "[capture]") {
  Attention net;
  net->to(torch::kDouble);
  net->scale = net->scale.to(torch::kDouble);
  net->eval();
  const auto x = torch::randn({4, 3, 8}, torch::kDouble);
  const auto with_grad = pare::capture(net, x, {.fixed_sizes = true});
  const torch::NoGradGuard no_grad;
  const auto without = pare::capture(net, x, {.fixed_sizes = true});
  CHECK(torch::equal(with_grad(x), net(x)));
  REQUIRE(with_grad.graph().nodes().size() == without.graph().nodes().size());
  for (std::size_t i = 0; i < without.graph().nodes().size(); ++i)
    CHECK(with_grad.graph().node(with_grad.graph().nodes()[i]).op ==
          without.graph().node(without.graph().nodes()[i]).op);
  CHECK(error_id([&] { return with_grad(torch::randn({5, 3, 8}, torch::kDouble)); }) == "pare.run.103");
}

TEST_CASE("threads capture and replay at once", "[capture]") {
  std::vector<std::thread> threads;
  std::vector<int> equal(4, 0);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([i, &equal] {
      Pool net;
      const auto model = pare::capture(net, torch::randn({2, 3, 16, 16}));
      const auto x = torch::randn({3, 3, 16, 16});
      equal[static_cast<std::size_t>(i)] = torch::equal(model(x), net(x)) ? 1 : 0;
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(equal == std::vector<int>(4, 1));
}

TEST_CASE("a failed capture says why and leaves the module alone", "[capture]") {
  Throwing throwing;
  throwing->fc->eval();
  CHECK(error_id([&] { return pare::capture(throwing, torch::randn({2, 4})); }) == "pare.capture.104");
  CHECK(throwing->is_training());
  CHECK_FALSE(throwing->fc->is_training());
  Threaded threaded;
  CHECK(error_id([&] { return pare::capture(threaded, torch::randn({2, 4})); }) == "pare.capture.132");
  Pool pool;
  CHECK(error_id([&] { return pare::capture(pool, torch::randn({2, 5, 16, 16})); }) == "pare.capture.104");
  CHECK(error_id([&] { return pare::capture(pool, torch::randn({0, 3, 16, 16})); }) == "pare.capture.102");
  Nested nested;
  CHECK(error_id([&] { return pare::capture(nested, torch::randn({2, 4})); }) == "pare.capture.105");
}

TEST_CASE("a failed capture names the module that failed, and what it missed", "[capture]") {
  Counting net;
  net->eval();
  CHECK(error_id([&] { return pare::capture(net, torch::randn({2, 4})); }) == "pare.capture.103");
  const auto mean = net->norm->running_mean.clone();
  try {
    static_cast<void>(pare::capture(net, torch::randn({2, 5})));
    FAIL("five features are one too many");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.capture.104");
    CHECK(error.path() == "first");
  }
  CHECK(torch::equal(mean, net->norm->running_mean));
}

TEST_CASE("a forward that writes to its input is captured, and nobody's input is written", "[capture]") {
  Overwriter net;
  const auto example = torch::randn({2, 4});
  const auto before = example.clone();
  const auto model = pare::capture(net, example);
  CHECK(torch::equal(example, before));
  const auto x = torch::randn({5, 4});
  const auto copy = x.clone();
  const auto answer = model(x);
  CHECK(torch::equal(x, copy));
  CHECK(torch::allclose(answer, net(x), 0.0, 0.0, /*equal_nan=*/true));
}

TEST_CASE("a module made in inference mode is captured outside of it", "[capture]") {
  std::optional<torch::nn::Sequential> net;
  {
    const c10::InferenceMode inference;
    net.emplace(torch::nn::Linear(4, 4), torch::nn::BatchNorm1d(4));
  }
  (*net)->eval();
  const auto model = pare::capture(*net, torch::randn({2, 4}));
  const torch::NoGradGuard no_grad;
  const auto x = torch::randn({3, 4});
  CHECK(torch::equal(model(x), (*net)->forward(x)));
}

TEST_CASE("a model follows the live weights until it is given its own", "[capture]") {
  Pool net;
  auto model = pare::capture(net, torch::randn({2, 3, 16, 16}));
  auto copy = model;
  copy.detach_weights();
  const auto x = torch::randn({2, 3, 16, 16});
  const auto before = net(x).detach();
  {
    const torch::NoGradGuard no_grad;
    net->conv->weight.mul_(2);
  }
  CHECK(torch::equal(model(x), net(x)));
  CHECK(torch::equal(copy(x), before));
  model.set_weight("conv.weight", torch::zeros_like(net->conv->weight));
  CHECK(net->conv->weight.abs().sum().item<float>() > 0);
}
