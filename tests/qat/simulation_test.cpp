#include "pare/quantize/simulation.hpp"

#include <torch/torch.h>

#include <future>

#include "examples/models/cifar_resnet.hpp"
#include "examples/models/data_dependent.hpp"
#include "pare/execute/compile.hpp"
#include "pare/graph/op_family.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

// Writes in place, branches, is called with a member twice.
struct Inplace : nn::Module {
  Inplace() {
    stem = register_module("stem", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1).bias(false)));
    norm = register_module("norm", nn::BatchNorm2d(8));
    twice = register_module("twice", nn::Conv2d(nn::Conv2dOptions(8, 8, 3).padding(1)));
    fc = register_module("fc", nn::Linear(8, 4));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = norm(stem(x));
    torch::relu_(y);
    auto z = torch::relu(twice(y));
    z = twice(z);
    z += y;
    torch::relu_(z);
    return fc(torch::adaptive_avg_pool2d(z, {1, 1}).flatten(1));
  }
  nn::Conv2d stem{nullptr}, twice{nullptr};
  nn::BatchNorm2d norm{nullptr};
  nn::Linear fc{nullptr};
};

// Attention as one call, with padding masked.
struct Attention : nn::Module {
  Attention() {
    qkv = register_module("qkv", nn::Linear(16, 48));
    out = register_module("out", nn::Linear(16, 4));
  }
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& mask) {
    const auto heads = qkv(x).view({x.size(0), x.size(1), 6, 8}).transpose(1, 2).chunk(3, 1);
    const auto seen = torch::scaled_dot_product_attention(heads[0], heads[1], heads[2], mask.unsqueeze(1).unsqueeze(1));
    return out(seen.transpose(1, 2).reshape({x.size(0), x.size(1), 16}));
  }
  nn::Linear qkv{nullptr}, out{nullptr};
};

// A training loop as LibTorch's tutorials write it.
template <class Net>
double train_epochs(Net& net, torch::optim::Optimizer& optimizer, const torch::Tensor& images,
                    const torch::Tensor& labels, int epochs) {
  net->train();
  double last = 0;
  for (int epoch = 0; epoch < epochs; ++epoch) {
    for (std::int64_t i = 0; i + 16 <= images.size(0); i += 16) {
      optimizer.zero_grad();
      auto loss = nn::functional::cross_entropy(net->forward(images.narrow(0, i, 16)), labels.narrow(0, i, 16));
      loss.backward();
      optimizer.step();
      last = loss.template item<double>();
    }
  }
  net->eval();
  return last;
}

struct Samples {
  torch::Tensor images = torch::randn({64, 3, 8, 8});
  torch::Tensor labels = images.mean({1, 2, 3}).gt(0).to(torch::kLong);
};

}  // namespace

TEST_CASE("two lines make a training loop quantization-aware, and its result converts", "[qat]") {
  torch::manual_seed(1);
  const Samples samples;
  auto net = std::make_shared<Inplace>();
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.02).momentum(0.9));
  (void)train_epochs(net, optimizer, samples.images, samples.labels, 2);
  const auto* before = net->stem->weight.unsafeGetTensorImpl();

  pare::Simulation simulation{net, samples.images.narrow(0, 0, 8),
                              pare::Quantizer{.weights = 2_bits, .activations = 4_bits}};
  INFO(simulation.obstacle());
  REQUIRE(simulation.follows_graph());
  const auto x = samples.images;
  {
    auto scope = simulation.enter();
    (void)train_epochs(net, optimizer, samples.images, samples.labels, 3);
  }
  const torch::NoGradGuard no_grad;
  CHECK(net->stem->weight.unsafeGetTensorImpl() == before);
  const auto plain = net->forward(x);
  const auto converted = simulation.convert()(x);
  torch::Tensor simulated;
  {
    auto scope = simulation.enter();
    simulated = net->forward(x);
    CHECK(torch::equal(simulated, net->forward(x)));
  }
  CHECK(torch::equal(plain, net->forward(x)));
  // Two bits change what comes out, and the simulation shows the change; batch norms apart, which are folded there.
  CHECK(pare::sqnr_db(plain, simulated) < 25.0);
  CHECK(pare::sqnr_db(simulated, converted) > 30.0);
}

TEST_CASE("a simulated ResNet computes what its converted Model computes", "[qat]") {
  torch::manual_seed(2);
  auto net = models::CifarResNet(20);
  net->eval();
  const auto x = torch::randn({4, 3, 32, 32});
  pare::Simulation simulation{net, x, pare::Quantizer{.weights = 8_bits}};
  INFO(simulation.obstacle());
  REQUIRE(simulation.follows_graph());
  const torch::NoGradGuard no_grad;
  auto scope = simulation.enter();
  CHECK(pare::sqnr_db(simulation.convert()(x), net->forward(x)) > 35.0);
}

TEST_CASE("a teacher that is a Model of the same network is not rounded with it", "[qat]") {
  torch::manual_seed(2);
  auto net = models::CifarResNet(8);
  net->eval();
  const auto x = torch::randn({2, 3, 32, 32});
  const auto teacher = pare::capture(net, x);
  pare::Simulation simulation{net, x, pare::Quantizer{.weights = 2_bits}};
  const torch::NoGradGuard no_grad;
  const auto plain = teacher(x);
  auto scope = simulation.enter();
  const auto before = net->forward(x);
  CHECK(torch::equal(teacher(x), plain));
  CHECK(torch::equal(net->forward(x), before));
  CHECK_FALSE(torch::equal(before, plain));
}

TEST_CASE("attention that is one call of the module is rounded inside, as its converted Model does", "[qat]") {
  torch::manual_seed(6);
  Attention net;
  const auto x = torch::randn({4, 7, 16});
  const auto mask = torch::arange(7).lt(torch::tensor({7, 5, 3, 6}).unsqueeze(1));
  const auto example = std::make_tuple(x, mask);
  const pare::Quantizer quantizer{.weights = 8_bits, .activations = 4_bits};
  pare::Simulation simulation{net, example, quantizer};
  INFO(simulation.obstacle());
  REQUIRE(simulation.follows_graph());
  const auto converted = simulation.convert();
  const auto& graph = converted.graph();
  int products = 0;
  for (const auto id : graph.nodes(pare::op("aten::matmul"))) {
    ++products;
    for (const std::size_t side : {0U, 1U}) {
      const auto* producer = graph.producer(graph.node(id).input(side));
      while (producer && pare::family_of(producer->op) == pare::OpFamily::PassThrough)
        producer = graph.producer(producer->input(0));
      REQUIRE(producer);
      CHECK(pare::family_of(producer->op) == pare::OpFamily::FakeQuantize);
    }
  }
  CHECK(products == 4);  // two of attention, and one of each linear layer: sequences have three dimensions

  net.eval();
  const pare::Batches calibration{std::vector<pare::Batch>{{x, mask}}};
  const pare::Quantizer around{.keep_float = {"*scaled_dot_product*"}, .weights = 8_bits, .activations = 4_bits};
  const auto outside = pare::apply(around, pare::capture(net, example), {.calibration = calibration});
  const auto expected = converted.run({x, mask})[0], other = outside.model.run({x, mask})[0];
  auto scope = simulation.enter();
  {
    const torch::NoGradGuard no_grad;
    const auto simulated = net.forward(x, mask);
    CHECK(pare::sqnr_db(expected, simulated) > 60.0);
    CHECK(pare::sqnr_db(other, simulated) < 40.0);  // without the roundings inside of attention
  }
  net.train();
  net.forward(x, mask).square().sum().backward();
  CHECK(net.qkv->weight.grad().abs().sum().item<double>() > 0);
}

TEST_CASE("gradients reach parameters through the simulation, and learned ranges too", "[qat]") {
  torch::manual_seed(3);
  const Samples samples;
  auto net = std::make_shared<Inplace>();
  pare::Simulation simulation{
      net,
      samples.images,
      pare::Quantizer{.weights = 4_bits},
      {.training = {.weights = pare::RangeTraining::LearnedStep, .activations = pare::RangeTraining::LearnedStep}}};
  auto ranges = simulation.range_parameters();
  REQUIRE_FALSE(ranges.empty());
  net->train();
  auto scope = simulation.enter();
  nn::functional::cross_entropy(net->forward(samples.images), samples.labels).backward();
  for (const auto& parameter : net->parameters()) {
    REQUIRE(parameter.grad().defined());
    CHECK(parameter.grad().abs().sum().item<double>() > 0);
  }
  for (const auto& range : ranges) CHECK(range.grad().defined());
  const auto state = simulation.state();
  {
    const torch::NoGradGuard no_grad;
    for (auto& range : ranges) range.mul_(2);
  }
  simulation.load_state(state);
  for (const auto& [name, tensor] : simulation.state()) CHECK(torch::equal(tensor, state.at(name)));
  CHECK(raises("pare.quantize.113", [&] { simulation.load_state({}); }));
}

TEST_CASE("a module whose path depends on data is followed by its parameters", "[qat]") {
  torch::manual_seed(4);
  models::DataDependent net;
  const auto high = torch::randn({32, 16}) + 1;
  pare::Simulation simulation{net, high, pare::Quantizer{.weights = 2_bits}};
  CHECK_FALSE(simulation.follows_graph());
  CHECK(simulation.obstacle().find("pare.capture.121") != std::string::npos);
  CHECK(raises("pare.quantize.122", [&] { (void)simulation.convert(); }));
  const torch::NoGradGuard no_grad;
  net->eval();
  const auto plain = net->forward(high);
  auto scope = simulation.enter();
  const auto rounded = net->forward(high);
  CHECK_FALSE(torch::equal(plain, rounded));
  // Whichever layer the gate did not choose has no range to round with, in evaluation mode.
  const auto reached = [&](const char* layer) {
    return simulation.state().contains(std::string(layer) + ".weight.fake_quantize.scale");
  };
  REQUIRE(reached("large") != reached("small"));
  net->named_parameters()["gate.weight"].zero_();
  net->named_parameters()["gate.bias"].fill_(reached("large") ? -1.0 : 1.0);
  CHECK(raises("pare.quantize.123", [&] { (void)net->forward(high); }));
  const torch::AutoGradMode gradients(true);
  net->train();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  optimizer.zero_grad();
  net->forward(high).square().mean().backward();
  CHECK(net->named_parameters()["head.weight"].grad().abs().sum().item<double>() > 0);
  optimizer.step();
  net->eval();
  CHECK(torch::isfinite(net->forward(high)).all().item<bool>());
  CHECK(reached("large"));
  CHECK(reached("small"));

  models::DataDependent twin;
  pare::Simulation resumed{twin, high, pare::Quantizer{.weights = 2_bits}};
  resumed.load_state(simulation.state());
  for (const auto& [name, tensor] : resumed.state()) {
    INFO(name);
    CHECK(torch::equal(tensor, simulation.state().at(name)));
  }
}

namespace {

// Two weights of one module, of different shapes, behind control flow that depends on the data.
struct TwoWeights : nn::Module {
  TwoWeights() {
    first = register_parameter("first", torch::randn({12, 6}));
    second = register_parameter("second", torch::randn({4, 12}));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = torch::linear(x, first);
    return torch::linear(y.mean().item<float>() > 100 ? y : torch::relu(y), second);
  }
  torch::Tensor first, second;
};

}  // namespace

TEST_CASE("what is computed beside the forward is left alone", "[qat]") {
  struct Flat : nn::Module {
    Flat() {
      first = register_module("first", nn::Linear(16, 16));
      second = register_module("second", nn::Linear(16, 16));
    }
    torch::Tensor forward(const torch::Tensor& x) { return second(torch::relu(first(x.flatten(1)))); }
    nn::Linear first{nullptr}, second{nullptr};
  } net;
  net.eval();
  torch::manual_seed(9);
  const auto x = torch::rand({8, 4, 4});
  pare::Simulation simulation{net, x, pare::Quantizer{}};
  const auto scope = simulation.enter();
  const auto expected = net.forward(x);
  const auto labels = torch::arange(128).reshape({8, 4, 4}), maps = 10 * torch::randn({8, 2, 8});
  CHECK(torch::equal(labels.flatten(1), labels.reshape({8, 16})));
  CHECK(torch::equal(maps.flatten(1), maps.reshape({8, 16})));
  CHECK(torch::equal(net.forward(x), expected));
}

TEST_CASE("a result that a layer reads as integers is given out as it was computed", "[qat]") {
  struct Features : nn::Module {
    Features() {
      fc = register_module("fc", nn::Linear(8, 8));
      head = register_module("head", nn::Linear(8, 4));
    }
    std::vector<torch::Tensor> forward(const torch::Tensor& x) {
      const auto y = torch::relu(fc(x));
      return {y, head(y)};
    }
    nn::Linear fc{nullptr}, head{nullptr};
  } net;
  net.eval();
  torch::manual_seed(10);
  const auto x = torch::randn({64, 8});
  pare::Simulation simulation{net, x, pare::Quantizer{.activations = 4_bits}};
  const auto converted = simulation.convert();
  const auto simulated = [&] {
    const auto scope = simulation.enter();
    return net.forward(x);
  }();
  const auto packed = pare::compile(converted).run({x});
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(torch::equal(converted.run({x})[i], simulated[i]));
    CHECK(pare::sqnr_db(simulated[i], packed[i]) > 60.0);
  }
  CHECK(std::get<0>(at::_unique(simulated[0])).numel() > 16);
}

TEST_CASE("two weights of one module have a quantizer each", "[qat]") {
  torch::manual_seed(5);
  TwoWeights net, twin;
  const auto x = torch::randn({16, 6});
  pare::Simulation simulation{net, x, pare::Quantizer{.weights = 3_bits}};
  CHECK_FALSE(simulation.follows_graph());
  {
    auto scope = simulation.enter();
    net.train();
    net.forward(x).square().mean().backward();
  }
  const auto state = simulation.state();
  CHECK(state.at("first.fake_quantize.scale").numel() == 12);
  CHECK(state.at("second.fake_quantize.scale").numel() == 4);
  CHECK(state.contains("first.input.fake_quantize.scale"));
  CHECK(state.contains("second.input.fake_quantize.scale"));
  pare::Simulation resumed{twin, x, pare::Quantizer{.weights = 3_bits}};
  resumed.load_state(state);
  for (const auto& [name, tensor] : resumed.state()) {
    INFO(name);
    CHECK(torch::equal(tensor, state.at(name)));
  }
}

TEST_CASE("one scope at a time, one thread at a time, and bad options at once", "[qat]") {
  torch::manual_seed(5);
  auto net = std::make_shared<Inplace>();
  net->eval();
  const auto x = torch::randn({2, 3, 8, 8});
  pare::Simulation simulation{net, x, pare::Quantizer{.weights = 2_bits}};
  const torch::NoGradGuard no_grad;
  const auto plain = net->forward(x);
  {
    auto scope = simulation.enter();
    CHECK(raises("pare.quantize.121", [&] { auto again = simulation.enter(); }));
    std::async(std::launch::async, [&] {
      CHECK(raises("pare.quantize.121", [&] { auto again = simulation.enter(); }));
      const torch::NoGradGuard also_here;
      CHECK(torch::equal(plain, net->forward(x)));  // another thread sees nothing of it
    }).get();
    CHECK_FALSE(torch::equal(plain, net->forward(x)));
  }
  auto scope = simulation.enter();
  using Quantizer = pare::Quantizer<>;
  CHECK(raises("pare.quantize.103", [&] { pare::Simulation bad(net, x, Quantizer{.weights = 12_bits}); }));
  CHECK(
      raises("pare.quantize.110", [&] { pare::Simulation bad(net, x, Quantizer{}, {.training = {.momentum = 2.0}}); }));
  CHECK(raises("pare.quantize.101", [&] { pare::Simulation bad(net, torch::full({2, 3, 8, 8}, NAN), Quantizer{}); }));
}
