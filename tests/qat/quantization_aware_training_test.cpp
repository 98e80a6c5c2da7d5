#include "pare/quantize/quantization_aware_training.hpp"

#include <torch/torch.h>

#include <algorithm>

#include "examples/models/captured.hpp"
#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/sparse_training.hpp"
#include "pare/prune/sparsifier.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

struct Small : nn::Module {
  Small() {
    stem = register_module("stem", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1).bias(false)));
    norm = register_module("norm", nn::BatchNorm2d(8));
    body = register_module("body", nn::Conv2d(nn::Conv2dOptions(8, 8, 3).padding(1)));
    norm2 = register_module("norm2", nn::BatchNorm2d(8));
    fc = register_module("fc", nn::Linear(8, 4));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(norm(stem(x)));
    y = torch::relu(norm2(body(y)) + y);
    return fc(torch::adaptive_avg_pool2d(y, {1, 1}).flatten(1));
  }
  nn::Conv2d stem{nullptr}, body{nullptr};
  nn::BatchNorm2d norm{nullptr}, norm2{nullptr};
  nn::Linear fc{nullptr};
};

// A transformer's feed-forward block, one channel of it far louder than the others: smoothing multiplies there.
struct LoudBlock : nn::Module {
  LoudBlock() {
    up = register_module("up", nn::Linear(12, 16));
    drop = register_module("drop", nn::Dropout(0.5));
    down = register_module("down", nn::Linear(16, 12));
    const torch::NoGradGuard no_grad;
    up->weight[4].mul_(60.0F);
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) { return down(drop(torch::relu(up(x)))); }
  nn::Linear up{nullptr}, down{nullptr};
  nn::Dropout drop{nullptr};
};

// Four classes by which quadrant is bright.
struct Task {
  torch::Tensor images, labels;
};
Task quadrants(std::int64_t count, std::uint64_t seed) {
  torch::manual_seed(seed);
  Task task{torch::randn({count, 3, 8, 8}) * 0.5, torch::randint(0, 4, {count})};
  for (std::int64_t i = 0; i < count; ++i) {
    const auto label = task.labels[i].item<std::int64_t>();
    task.images[i].narrow(1, (label / 2) * 4, 4).narrow(2, (label % 2) * 4, 4).add_(0.6);
  }
  return task;
}

template <class Forward>
double accuracy(Forward&& forward, const Task& task) {
  const torch::NoGradGuard no_grad;
  return forward(task.images).argmax(1).eq(task.labels).to(torch::kFloat).mean().template item<double>();
}

template <class Forward>
void train(Forward&& forward, torch::optim::Optimizer& optimizer, const Task& task, int steps) {
  for (int step = 0; step < steps; ++step) {
    const auto begin = (step * 32) % (task.images.size(0) - 31);
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(forward(task.images.narrow(0, begin, 32)), task.labels.narrow(0, begin, 32))
        .backward();
    optimizer.step();
  }
}

std::shared_ptr<Small> trained(const Task& task) {
  torch::manual_seed(5);
  auto net = std::make_shared<Small>();
  torch::optim::Adam optimizer(net->parameters(), 0.01);
  train([&](const torch::Tensor& x) { return net->forward(x); }, optimizer, task, 40);
  net->eval();
  return net;
}

bool converts_exactly(pare::QuantizationAwareTraining& qat, const std::vector<torch::Tensor>& inputs) {
  const torch::NoGradGuard no_grad;
  qat.eval();
  const auto own = qat.run(inputs), converted = qat.convert().run(inputs);
  return torch::equal(own.at(0), converted.at(0));
}

}  // namespace

TEST_CASE("training recovers what few bits lose, in every way that ranges train", "[qat]") {
  const auto task = quadrants(512, 1), test = quadrants(512, 2);
  const auto net = trained(task);
  const auto model = pare::capture(*net, task.images.narrow(0, 0, 2));
  const auto whole = accuracy(model, test);
  const pare::Batches calibration{task.images.narrow(0, 0, 64)};
  const pare::Quantizer quantizer{.weights = 2_bits, .activations = 3_bits};
  const auto untrained = pare::apply(quantizer, model, {.calibration = calibration}).model;
  const auto before = model.weight("body.weight").clone();
  using enum pare::RangeTraining;
  for (const auto& options :
       {pare::QatOptions{}, pare::QatOptions{.activations = LearnedStepAndOffset},
        pare::QatOptions{.activations = LearnedClip}, pare::QatOptions{.weights = Observed, .activations = Observed}}) {
    pare::QuantizationAwareTraining qat{model, quantizer, calibration, options};
    torch::optim::Adam optimizer(qat.parameters(), 0.005);
    qat.train();
    train(qat, optimizer, task, 60);
    const auto converted = qat.convert();
    INFO("activations " << static_cast<int>(options.activations));
    CHECK(accuracy(converted, test) > whole - 0.1);
    CHECK(accuracy(converted, test) >= accuracy(untrained, test) - 0.02);
    CHECK(converts_exactly(qat, {test.images}));
  }
  CHECK(torch::equal(before, net->body->weight));
}

TEST_CASE("what was trained is packed and computes as simulated", "[qat]") {
  const auto task = quadrants(256, 1);
  const auto net = trained(task);
  const auto model = pare::capture(*net, task.images.narrow(0, 0, 2));
  pare::QuantizationAwareTraining qat{model, pare::Quantizer{.weights = 4_bits}, pare::Batches{task.images}};
  torch::optim::Adam optimizer(qat.parameters(), 0.005);
  qat.train();
  train(qat, optimizer, task, 10);
  const torch::NoGradGuard no_grad;
  const auto converted = qat.convert();
  const auto compiled = pare::compile(converted);
  const auto simulated = converted(task.images), packed = compiled(task.images);
  // The logits are float sums over integers that may differ by one where the two round differently.
  CHECK((simulated - packed).abs().max().item<double>() < 0.02 * simulated.abs().max().item<double>());
  CHECK(compiled.weight_bytes() < pare::compile(model).weight_bytes() / 2);
}

TEST_CASE("steps of scales move, batch norms learn, and frozen ones are folded", "[qat]") {
  const auto task = quadrants(128, 1);
  const auto net = trained(task);
  const auto model = pare::capture(*net, task.images.narrow(0, 0, 2));
  const pare::Batches calibration{task.images.narrow(0, 0, 64)};
  pare::QuantizationAwareTraining qat{model, pare::Quantizer{.weights = 4_bits}, calibration};
  const auto start = qat.state();
  CHECK(start.contains("body.weight.fake_quantize.scale"));
  torch::optim::SGD optimizer(qat.parameters(), 0.05);
  qat.train();
  train(qat, optimizer, task, 4);
  const auto after = qat.state();
  for (const auto* name : {"norm.running_mean", "norm.weight", "stem.weight", "body.weight.fake_quantize.scale"})
    CHECK_FALSE(torch::equal(start.at(name), after.at(name)));
  CHECK(after.at("norm.num_batches_tracked").item<std::int64_t>() ==
        start.at("norm.num_batches_tracked").item<std::int64_t>() + 4);

  qat.freeze_batch_norm();
  const auto x = task.images.narrow(0, 0, 16);
  const auto frozen = qat(x);  // in training mode, folded: what evaluation computes
  CHECK(torch::equal(qat.state().at("norm.running_mean"), after.at("norm.running_mean")));
  CHECK(torch::equal(frozen, qat.convert()(x)));
  optimizer.zero_grad();
  frozen.square().sum().backward();
  for (const auto& [name, tensor] : qat.named_parameters()) {
    INFO(name);
    CHECK(tensor.grad().defined());
    CHECK(torch::isfinite(tensor.grad()).all().item<bool>());
  }
  qat.reestimate_batch_norm(pare::Batches{x});
  const auto stem = torch::conv2d(x, qat.state().at("stem.weight"), {}, 1, 1);
  const auto mean = qat.state().at("norm.running_mean");
  // Weights of four bits move the means a little; means forgotten would be off by all of themselves.
  CHECK(pare::sqnr_db(stem.mean({0, 2, 3}), mean) > 10.0);
  CHECK_FALSE(torch::equal(qat.state().at("norm.running_mean"), after.at("norm.running_mean")));
}

TEST_CASE("frozen batch norms keep their statistics where no layer takes them in", "[qat]") {
  torch::manual_seed(8);
  nn::Sequential net(nn::BatchNorm2d(3), nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)), nn::BatchNorm2d(8),
                     nn::ReLU());
  const auto x = torch::randn({8, 3, 6, 6}) * 2 + 1;
  net->eval();
  pare::QuantizationAwareTraining qat{pare::capture(*net, x), pare::Quantizer{}, pare::Batches{x}};
  qat.train();
  static_cast<void>(qat(x));
  CHECK(qat.state().at("0.running_mean").abs().max().item<double>() > 0.01);
  qat.freeze_batch_norm();
  const auto before = qat.state();
  const auto frozen = qat(x);
  for (const auto* name : {"0.running_mean", "0.running_var", "2.running_mean"})
    CHECK(torch::equal(qat.state().at(name), before.at(name)));
  CHECK(torch::equal(frozen, qat.convert()(x)));
}

TEST_CASE("at eight bits the training forward is close to the float model's own", "[qat]") {
  const auto task = quadrants(128, 1);
  const auto net = trained(task);
  auto model = pare::capture(*net, task.images.narrow(0, 0, 2));
  pare::QuantizationAwareTraining qat{model, pare::Quantizer{}, pare::Batches{task.images}};
  model.detach_weights();
  model.train();
  qat.train();
  const torch::NoGradGuard no_grad;
  CHECK(pare::sqnr_db(model(task.images), qat(task.images)) > 25.0);
}

TEST_CASE("dropout before a smoothed layer goes on while it trains", "[qat]") {
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  LoudBlock net;
  const auto x = torch::randn({6, 5, 12});
  const auto model = pare::capture(net, torch::randn({2, 5, 12}));
  pare::QuantizationAwareTraining qat{model, pare::Quantizer{}, pare::Batches{x}};
  const auto state = qat.state();
  REQUIRE(std::ranges::any_of(state, [](const auto& entry) { return entry.first.ends_with(".smooth"); }));
  CHECK(pare::sqnr_db(net.forward(x), qat(x)) > 20.0);
  qat.train();
  CHECK(pare::sqnr_db(qat(x), qat(x)) < 10.0);
  CHECK(converts_exactly(qat, {x}));
}

TEST_CASE("delay, freezing and averages follow the steps", "[qat]") {
  const auto task = quadrants(128, 1);
  const auto net = trained(task);
  const auto model = pare::capture(*net, task.images.narrow(0, 0, 2));
  const pare::Batches calibration{task.images};
  pare::QuantizationAwareTraining qat{
      model,
      pare::Quantizer{.keep_float = {"stem", "body", "fc"}, .weights = 2_bits, .activations = 2_bits},
      calibration,
      {.activations = pare::RangeTraining::Observed}};
  CHECK(qat.range_parameters().empty());

  using enum pare::RangeTraining;
  pare::QuantizationAwareTraining late{model,
                                       pare::Quantizer{.activations = 2_bits},
                                       calibration,
                                       {.weights = Observed,
                                        .activations = Observed,
                                        .momentum = 0.5,
                                        .delay = 2,
                                        .freeze_ranges_after = 3,
                                        .average_decay = 0.5}};
  late.train();
  const torch::NoGradGuard no_grad;
  const auto x = task.images * 3;
  late.freeze_batch_norm();
  const auto float_activations = late(x);
  (void)late(x);
  const auto rounded = late(x);
  CHECK(pare::sqnr_db(float_activations, rounded) < 25.0);
  const auto ranges = late.state();
  (void)late(x * 10);
  for (const auto& [name, tensor] : late.state())
    if (name.find(".range") != std::string::npos) CHECK(torch::equal(tensor, ranges.at(name)));

  late.model_parameters().front().add_(1.0);
  const auto moved = late.state();
  (void)late(x);
  const auto averaged = late.state();
  const auto name = late.named_parameters().front().first;
  CHECK(torch::allclose(averaged.at("average." + name), moved.at(name) - 0.5));
  CHECK(torch::allclose(late.convert_average()(x), late.convert()(x)) == false);
  CHECK(torch::equal(late.state().at(name), moved.at(name)));
  CHECK(raises("pare.quantize.112", [&] { (void)qat.convert_average(); }));
}

TEST_CASE("a training that was saved goes on as it would have", "[qat]") {
  const ScratchFolder folder;
  const auto task = quadrants(256, 1);
  const auto net = trained(task);
  const auto model = pare::capture(*net, task.images.narrow(0, 0, 2));
  const pare::Batches calibration{task.images.narrow(0, 0, 64)};
  const pare::Quantizer quantizer{.weights = 4_bits, .activations = 4_bits};
  const pare::QatOptions options{.average_decay = 0.9};
  const auto go_on = [&](pare::QuantizationAwareTraining& qat) {
    torch::optim::SGD optimizer(qat.parameters(), 0.02);
    qat.train();
    train(qat, optimizer, task, 3);
  };
  pare::QuantizationAwareTraining first{model, quantizer, calibration, options};
  go_on(first);
  first.save(folder.file("qat.safetensors"));
  go_on(first);
  pare::QuantizationAwareTraining second{model, quantizer, pare::Batches{task.images.narrow(0, 64, 64)}, options};
  second.resume(folder.file("qat.safetensors"));
  go_on(second);
  const auto a = first.state(), b = second.state();
  REQUIRE(a.size() == b.size());
  for (const auto& [name, tensor] : a) {
    INFO(name);
    CHECK(torch::equal(tensor, b.at(name)));
  }
  auto broken = a;
  broken.erase("fc.weight");
  CHECK(raises("pare.quantize.113", [&] { second.load_state(broken); }));
  broken = a;
  broken["fc.weight"] = torch::zeros({1});
  CHECK(raises("pare.quantize.113", [&] { second.load_state(broken); }));
  broken = a;
  broken["stranger"] = torch::zeros({1});
  CHECK(raises("pare.quantize.113", [&] { second.load_state(broken); }));
  for (const auto& [name, tensor] : second.state()) CHECK(torch::equal(tensor, b.at(name)));
}

TEST_CASE("masks stay while fake-quantizes train", "[qat]") {
  const auto task = quadrants(256, 1);
  const auto net = trained(task);
  const pare::Batches calibration{task.images.narrow(0, 0, 64)};
  const auto model = pare::capture(*net, task.images.narrow(0, 0, 2));
  const auto sparse = pare::apply(pare::Sparsifier{.sparsity = 60_pct}, model, {.calibration = calibration}).model;
  pare::QuantizationAwareTraining qat{sparse, pare::Quantizer{.weights = 4_bits}, calibration};
  torch::optim::Adam optimizer(qat.parameters(), 0.01);
  const auto masks = pare::Masks::of(sparse);
  REQUIRE_FALSE(masks.empty());
  const pare::SparseTraining keep{qat.named_parameters(), masks, optimizer};
  qat.train();
  train(qat, optimizer, task, 10);
  const auto converted = qat.convert();
  for (const auto& [path, mask] : masks.all()) {
    INFO(path);
    CHECK(converted.weight(path).masked_select(mask.logical_not()).count_nonzero().item<std::int64_t>() == 0);
    CHECK_FALSE(torch::equal(converted.weight(path), sparse.weight(path)));
  }
  CHECK(converts_exactly(qat, {task.images}));
}

TEST_CASE("real architectures train and convert to what was simulated", "[qat]") {
  for (const auto* name : {"resnet20", "mobilenetv2", "minilm_sst2", "lstm"}) {
    INFO(name);
    torch::manual_seed(3);
    auto bundle = models::make(name);
    models::settle(bundle);
    bundle.module->eval();
    const auto model =
        pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2), models::varying_sizes(bundle));
    const auto batch = bundle.example(4);
    pare::QuantizationAwareTraining qat{model, pare::Quantizer{.weights = 4_bits},
                                        pare::Batches{std::vector<pare::Batch>{batch}}};
    torch::optim::SGD optimizer(qat.parameters(), 1e-4);
    if (model.can_train()) qat.train();
    optimizer.zero_grad();
    qat.run(batch).at(0).square().mean().backward();
    optimizer.step();
    CHECK(converts_exactly(qat, batch));
    const torch::NoGradGuard no_grad;
    const auto converted = qat.convert();
    const auto simulated = converted.run(batch).at(0), packed = pare::compile(converted).run(batch).at(0);
    CHECK(pare::sqnr_db(simulated, packed) > 20.0);
  }
}

TEST_CASE("bad options and inputs are one clear error", "[qat]") {
  const auto task = quadrants(64, 1);
  const auto net = trained(task);
  const auto model = pare::capture(*net, task.images.narrow(0, 0, 2));
  const pare::Batches calibration{task.images};
  const auto make = [&](const auto& quantizer, const pare::Batches& batches, const pare::QatOptions& options = {}) {
    return pare::QuantizationAwareTraining{model, quantizer, batches, options};
  };
  CHECK(raises("pare.quantize.103", [&] { (void)make(pare::Quantizer{.weights = 9_bits}, calibration); }));
  CHECK(raises("pare.quantize.103", [&] { (void)make(pare::Quantizer{.activations = 1_bits}, calibration); }));
  CHECK(raises("pare.quantize.105", [&] { (void)make(pare::Quantizer{.keep_float = {"nowhere"}}, calibration); }));
  CHECK(raises("pare.pass.102", [&] { (void)make(pare::Quantizer{}, {}); }));
  CHECK(raises("pare.quantize.101", [&] {
    (void)make(pare::Quantizer{}, pare::Batches{torch::full({2, 3, 8, 8}, NAN)});
  }));
  CHECK(raises("pare.quantize.110",
               [&] { (void)make(pare::Quantizer{}, calibration, {.weights = pare::RangeTraining::LearnedClip}); }));
  CHECK(raises("pare.quantize.110", [&] { (void)make(pare::Quantizer{}, calibration, {.momentum = 0.0}); }));
  CHECK(raises("pare.quantize.110", [&] { (void)make(pare::Quantizer{}, calibration, {.average_decay = 1.0}); }));
  CHECK(raises("pare.quantize.110", [&] { (void)make(pare::Quantizer{}, calibration, {.delay = -1}); }));
  auto qat = make(pare::Quantizer{}, calibration);
  CHECK(raises("pare.run.103", [&] { (void)qat(torch::zeros({2, 5, 8, 8})); }));
  {
    const torch::NoGradGuard no_grad;
    qat.range_parameters().front().fill_(NAN);
  }
  CHECK(raises("pare.quantize.111", [&] { (void)qat(task.images); }));
}
