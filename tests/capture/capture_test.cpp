#include "pare/capture/capture.hpp"

#include <torch/torch.h>

#include "pare/core/error.hpp"
#include "pare/graph/text.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

struct SmallImpl : torch::nn::Module {
  SmallImpl() {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1)));
    bn = register_module("bn", torch::nn::BatchNorm2d(8));
    fc = register_module("fc", torch::nn::Linear(8 * 4 * 4, 5));
  }
  torch::Tensor forward(torch::Tensor x) {
    x = bn(conv(x)).relu_();
    auto y = x * 2;
    y += x;
    x = torch::max_pool2d(y, 2);
    x = torch::dropout(x, 0.5, is_training());
    x = x.view({x.size(0), -1});
    return fc(x);
  }
  torch::nn::Conv2d conv{nullptr};
  torch::nn::BatchNorm2d bn{nullptr};
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(Small);

struct SlicesImpl : torch::nn::Module {
  torch::Tensor forward(torch::Tensor x) {
    using torch::indexing::Slice;
    auto y = torch::zeros_like(x);
    y.index_put_({Slice(), Slice(0, 2)}, x.index({Slice(), Slice(2, 4)}));
    auto view = y.view({y.size(0), 2, 2});
    view.select(1, 1).add_(1.0);
    auto parts = y.chunk(2, 1);
    parts[0].mul_(3.0);
    return y + view.flatten(1);
  }
};
TORCH_MODULE(Slices);

struct BranchImpl : torch::nn::Module {
  BranchImpl() { fc = register_module("fc", torch::nn::Linear(4, 4)); }
  torch::Tensor forward(torch::Tensor x) {
    x = fc(x);
    if (x.sum().item<float>() > 0) return x * 2;
    return x;
  }
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(Branch);

struct RawImpl : torch::nn::Module {
  RawImpl() { fc = register_module("fc", torch::nn::Linear(4, 4)); }
  torch::Tensor forward(torch::Tensor x) {
    auto y = fc(x);
    auto raw = torch::zeros({4});
    auto* data = raw.data_ptr<float>();
    for (int i = 0; i < 4; ++i) data[i] = x.const_data_ptr<float>()[i];
    return y + raw;
  }
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(Raw);

// Trains with an estimate of its own in a parameter, and counts its calls in a tensor that it never registered.
struct EstimatingImpl : torch::nn::Module {
  EstimatingImpl() {
    fc = register_module("fc", torch::nn::Linear(4, 4));
    estimate = register_parameter("estimate", torch::rand({4}) + 1, /*requires_grad=*/false);
  }
  torch::Tensor forward(torch::Tensor x) {
    if (is_training()) {
      const torch::NoGradGuard no_grad;
      estimate.copy_(torch::matmul(fc->weight, estimate));
    }
    calls.add_(1);
    return fc(x) * estimate * calls;
  }
  torch::nn::Linear fc{nullptr};
  torch::Tensor estimate, calls = torch::ones({1});
};
TORCH_MODULE(Estimating);

void check_replay(const pare::Model& model, const std::function<torch::Tensor(torch::Tensor)>& forward,
                  const std::vector<std::int64_t>& shape) {
  for (const std::int64_t batch : {1, 2, 4, 7}) {
    auto sizes = shape;
    sizes[0] = batch;
    const auto x = torch::randn(sizes);
    CHECK(torch::equal(model(x), forward(x)));
  }
}

}  // namespace

TEST_CASE("replay is bit-identical at sizes never captured, in both modes", "[capture]") {
  torch::manual_seed(1);
  Small net;
  net->eval();
  net->bn->running_mean.normal_();
  const auto mean = net->bn->running_mean.clone();
  net->fc->train();
  auto model = pare::capture(net, torch::randn({1, 3, 8, 8}));
  CHECK(net->fc->is_training());
  CHECK_FALSE(net->is_training());
  CHECK(torch::equal(mean, net->bn->running_mean));
  CHECK(net->bn->num_batches_tracked.item<long>() == 0);
  net->eval();
  check_replay(model, [&](torch::Tensor x) { return net(x); }, {0, 3, 8, 8});
  INFO((model.notes().empty() ? "" : model.notes()[0]));
  REQUIRE(model.can_train());

  const auto x = torch::randn({6, 3, 8, 8});
  net->train();
  model.train();
  torch::manual_seed(7);
  const auto expected = net(x);
  expected.square().sum().backward();
  std::vector<torch::Tensor> gradients;
  for (auto& parameter : net->parameters()) gradients.push_back(parameter.grad().clone());
  net->zero_grad();
  CHECK(net->bn->num_batches_tracked.item<long>() == 1);
  torch::manual_seed(7);
  const auto actual = model(x);
  CHECK(torch::equal(actual, expected));
  CHECK(net->bn->num_batches_tracked.item<long>() == 2);
  actual.square().sum().backward();
  for (std::size_t i = 0; i < gradients.size(); ++i) CHECK(torch::equal(net->parameters()[i].grad(), gradients[i]));
}

TEST_CASE("writes through views become values", "[capture]") {
  Slices net;
  auto model = pare::capture(net, torch::randn({3, 4}));
  check_replay(model, [&](torch::Tensor x) { return net(x); }, {0, 4});
  for (const auto id : model.graph().nodes()) CHECK_FALSE(model.graph().node(id).barrier);
}

TEST_CASE("a tensor that the forward fills from memory and then writes to is its own every time", "[capture]") {
  torch::nn::Module module;
  const auto weighted = [](const std::vector<torch::Tensor>& in) -> std::vector<torch::Tensor> {
    auto weights = torch::tensor(std::vector<float>{1, 2, 3, 4});
    weights.mul_(2).slice(0, 0, 2).add_(1);
    return {in[0] * weights};
  };
  const auto model = pare::capture_forward(module, weighted, {torch::randn({3, 4})});
  check_replay(model, [&](const torch::Tensor& x) { return weighted({x})[0]; }, {0, 4});
}

TEST_CASE("what a forward writes to holds after the capture what it held before, and replays write to it",
          "[capture]") {
  torch::manual_seed(3);
  const torch::NoGradGuard no_grad;
  Estimating net;
  const auto estimate = net->estimate.clone();
  auto model = pare::capture(net, torch::randn({3, 4}));
  CHECK(torch::equal(net->estimate, estimate));
  CHECK(net->calls.item<float>() == 1);
  REQUIRE(model.can_train());
  const auto x = torch::randn({5, 4});
  for (const bool training : {false, true}) {
    net->train(training);
    model.train(training);
    const auto twice = [&](const std::function<torch::Tensor(torch::Tensor)>& forward) {
      net->estimate.copy_(estimate);
      net->calls.fill_(1);
      forward(x);
      return std::vector<torch::Tensor>{forward(x), net->estimate.clone(), net->calls.clone()};
    };
    const auto expected = twice([&](torch::Tensor in) { return net(in); });
    const auto actual = twice([&](torch::Tensor in) { return model(in); });
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(torch::equal(actual[i], expected[i]));
    CHECK(net->calls.item<float>() == 3);
    CHECK(torch::equal(net->estimate, estimate) != training);
  }
}

TEST_CASE("a value read from the input is one clear error", "[capture]") {
  Branch net;
  try {
    static_cast<void>(pare::capture(net, torch::randn({3, 4})));
    FAIL("captured a data-dependent forward");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.capture.121");
    CHECK(error.path() == "fc");
    CHECK(std::string(error.what()).find("aten::item") != std::string::npos);
  }
}

TEST_CASE("a value that is read and depends on the sizes is refused", "[capture]") {
  torch::nn::Module module;
  const auto counted = [](const std::vector<torch::Tensor>& in) -> std::vector<torch::Tensor> {
    const auto rows = torch::full({}, in[0].size(0), torch::kLong).item<std::int64_t>();
    return {rows > 100 ? in[0] : in[0] * 2};
  };
  CHECK(raises("pare.capture.131", [&] {
    static_cast<void>(pare::capture_forward(module, counted, {torch::randn({3, 4})}));
  }));
  const auto fixed = pare::capture_forward(module, counted, {torch::randn({3, 4})}, {.fixed_sizes = true});
  const auto x = torch::randn({3, 4});
  CHECK(torch::equal(fixed(x), x * 2));
}

TEST_CASE("what bypasses the dispatcher is refused", "[capture]") {
  Raw net;
  try {
    static_cast<void>(pare::capture(net, torch::randn({3, 4})));
    FAIL("captured a raw pointer loop");
  } catch (const pare::Error& error) {
    INFO(error.what());
    CHECK((error.id() == "pare.capture.132" || error.id() == "pare.capture.141"));
  }
}

TEST_CASE("a batch of one that takes another path is refused, not answered wrongly", "[capture]") {
  const auto lonely = [](const std::vector<torch::Tensor>& in) -> std::vector<torch::Tensor> {
    return {in[0].size(0) == 1 ? in[0] * 2 : in[0] + 1};
  };
  torch::nn::Module module;
  const auto model = pare::capture_forward(module, lonely, {torch::randn({3, 4})});
  const auto rows = torch::randn({5, 4});
  CHECK(torch::equal(model(rows), rows + 1));
  CHECK(raises("pare.run.108", [&] { static_cast<void>(model(rows.narrow(0, 0, 1))); }));
  CHECK(pare::print(model).find("dim batch = 3 from 2") != std::string::npos);
  CHECK(raises("pare.capture.142", [&] {
    static_cast<void>(pare::capture_forward(module, lonely, {torch::randn({1, 4})}));
  }));
  const auto fixed = pare::capture_forward(module, lonely, {torch::randn({1, 4})}, {.fixed_sizes = true});
  CHECK(torch::equal(fixed(rows.narrow(0, 0, 1)), rows.narrow(0, 0, 1) * 2));
}

TEST_CASE("shorthands are captured as the products and movements that they are", "[capture]") {
  torch::manual_seed(2);
  const auto attend = [](const std::vector<torch::Tensor>& in) -> std::vector<torch::Tensor> {
    const auto heads = in[0].view({in[0].size(0), in[0].size(1), 2, 4});
    const auto scores = torch::softmax(torch::einsum("bqhd,bkhd->bhqk", {heads, heads}), -1);
    const auto mixed = torch::einsum("bhqk,bkhd->bqhd", {scores, heads});
    return {mixed.flatten(2).movedim(1, 2), torch::cosine_similarity(in[0], mixed.flatten(2), 2), in[0].std(1)};
  };
  torch::nn::Module module;
  const auto model = pare::capture_forward(module, attend, {torch::randn({2, 5, 8})});
  const auto text = pare::print(model.graph());
  for (const auto* shorthand : {"einsum", "movedim", "cosine_similarity"})
    CHECK(text.find(shorthand) == std::string::npos);
  CHECK(text.find("aten::bmm") != std::string::npos);
  for (const std::int64_t batch : {4, 7}) {
    const auto x = torch::randn({batch, 5, 8});
    const auto expected = attend({x}), actual = model.run({x});
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(expected[i].equal(actual[i]));
  }
  // A single sample is multiplied in another order: the last bits may differ, and it is not refused for them.
  const auto x = torch::randn({1, 5, 8});
  const auto expected = attend({x}), actual = model.run({x});
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(expected[i].allclose(actual[i], 1e-5, 1e-6));
  auto y = torch::randn({3, 5, 8}).requires_grad_(), z = y.detach().clone().requires_grad_();
  attend({y})[0].pow(2).sum().backward();
  model.run({z})[0].pow(2).sum().backward();
  CHECK(y.grad().allclose(z.grad(), 1e-5, 1e-6));
}
