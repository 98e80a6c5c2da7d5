// The arithmetic of the C program in this process: each score the C's, bit for bit, and close to the other packed
// model.
#include "pare/mcu/compile.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <functional>
#include <map>

#include "examples/data/dataset.hpp"
#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/mcu/write_c.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/mcu/c_program.hpp"
#include "tests/mcu/quantized.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;

/// The C program's scores of a batch as the numbers that they stand for.
torch::Tensor numbers_as_c(const pare::Model& model, const torch::Tensor& inputs) {
  const ScratchFolder folder;
  const auto source = pare::mcu::write_c(model, folder.file("net.c"));
  const auto scores = host_scores(folder, integers(inputs, source.input));
  return (scores.to(torch::kDouble) * source.output_scale).to(torch::kFloat);
}

/// Everything that there is a kernel for, with kernels, strides and padding of different heights and widths.
struct OddShapesImpl : torch::nn::Module {
  OddShapesImpl() {
    register_module("stem", stem);
    register_module("grouped", grouped);
    register_module("pointwise", pointwise);
    register_module("fc", fc);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::hardtanh(stem(torch::constant_pad_nd(x, {0, 1, 2, 0})), -0.5, 4.0);
    auto z = torch::relu6(pointwise(torch::relu(grouped(y))) + y);
    z = torch::max_pool2d(torch::cat({z, y, z}, 1), {3, 2}, {2, 1}, {1, 0}, 1, true);
    z = torch::relu(torch::avg_pool2d(z, 3, 1, 1) + z);
    return torch::log_softmax(fc(z.mean({2, 3})), 1);
  }
  torch::nn::Conv2d stem{torch::nn::Conv2dOptions(3, 8, {3, 5}).stride({2, 3}).padding({1, 0})};
  torch::nn::Conv2d grouped{torch::nn::Conv2dOptions(8, 8, 3).padding(2).dilation(2).groups(4)};
  torch::nn::Conv2d pointwise{torch::nn::Conv2dOptions(8, 8, 1)};
  torch::nn::Linear fc{24, 6};
};
TORCH_MODULE(OddShapes);

}  // namespace

TEST_CASE("the twin of a program gives its scores, bit for bit", "[mcu]") {
  torch::manual_seed(5);
  const torch::NoGradGuard no_grad;
  for (const auto* name : {"digits_mlp", "lenet", "resnet8"})
    for (const int bits : {8, 4}) {
      DYNAMIC_SECTION(name << " at " << bits << " bits") {
        auto bundle = models::make(name);
        models::settle(bundle);
        const auto model = quantized(bundle, {bundle.example(8)}, {bits});
        const auto inputs = bundle.example(24).at(0);
        const auto twin = pare::mcu::compile(model);
        CHECK(torch::equal(twin(inputs), numbers_as_c(model, inputs)));
        const auto expected = model.run({inputs}).at(0);
        CHECK(pare::sqnr_db(expected, twin(inputs)) > 30.0);
        // One sample at a time is no other thing than a batch.
        CHECK(torch::equal(twin(inputs.narrow(0, 3, 1)), twin(inputs).narrow(0, 3, 1)));
      }
    }
}

TEST_CASE("the twin knows every kernel, in odd shapes", "[mcu]") {
  torch::manual_seed(9);
  OddShapes net;
  net->eval();
  const torch::NoGradGuard no_grad;
  const auto model = pare::apply(pare::Quantizer{}, pare::capture(net, torch::randn({4, 3, 17, 22})),
                                 {.calibration = pare::Batches{torch::randn({16, 3, 17, 22})}})
                         .model;
  const auto inputs = torch::randn({16, 3, 17, 22});
  const auto twin = pare::mcu::compile(model);
  std::size_t taps = 0;
  std::map<pare::ValueId, torch::Tensor> simulated;
  static_cast<void>(model.run({inputs}, [&](pare::ValueId value, const torch::Tensor& is) { simulated[value] = is; }));
  const auto outputs = twin.run({inputs}, [&](pare::ValueId value, const torch::Tensor& is) {
    INFO(model.graph().value(value).name);
    REQUIRE(simulated.contains(value));
    REQUIRE(is.sizes() == simulated[value].sizes());
    CHECK(pare::sqnr_db(simulated[value], is) > 40.0);
    ++taps;
  });
  CHECK(taps >= 7);
  CHECK(torch::equal(outputs.at(0), torch::log_softmax(numbers_as_c(model, inputs), 1)));
  CHECK(pare::sqnr_db(model.run({inputs}).at(0), outputs.at(0)) > 40.0);
  const auto report = twin.report();
  CHECK(std::ranges::count(report.rows, std::string("add"), &pare::ExecutionReport::Row::fused) >= 1);
  const auto profile = twin.profile({inputs}, 0.05);
  CHECK(profile.steps.size() == report.rows.size() + 1);
  CHECK(profile.call_ms > 0);
  CHECK(twin.resident_bytes() > twin.weight_bytes());
}

TEST_CASE("the twin of ResNet-8 gives the C program's scores of 461 pictures", "[mcu]") {
  const torch::NoGradGuard no_grad;
  const auto trained = trained_resnet8();
  if (!trained) return;
  const auto& set = trained->set;
  const auto& model = trained->int8;
  const auto twin = pare::mcu::compile(model)(set.inputs[0]);
  CHECK(torch::equal(twin, numbers_as_c(model, set.inputs[0])));
  const auto packed = pare::compile(model, {.tune = false})(set.inputs[0]);
  const auto differ = (twin - packed).abs().amax(1).gt(1e-4 * packed.abs().max()).sum().item<int64_t>(),
             flipped = twin.argmax(1).ne(packed.argmax(1)).sum().item<int64_t>();
  std::cerr << fmt::format(
      "resnet8: {:.2f} % in fixed point, {:.2f} % in float between integers; {} of {} samples have "
      "another score, {} another class\n",
      data::top1_percent(twin, set.labels), data::top1_percent(packed, set.labels), differ, set.size(), flipped);
  CHECK(flipped * 100 <= set.size());
}

TEST_CASE("with exact scales the device, this process's kernels and the simulation give the same scores", "[mcu]") {
  const torch::NoGradGuard no_grad;
  const auto same = [](const pare::Model& model, const torch::Tensor& inputs) {
    const auto packed = pare::compile(model, {.tune = false})(inputs);
    CHECK(torch::equal(model(inputs), packed));
    CHECK(torch::equal(pare::mcu::compile(model)(inputs), packed));
    CHECK(torch::equal(numbers_as_c(model, inputs), packed));
  };
  for (const auto* name : {"digits_mlp", "lenet", "resnet8"}) {
    INFO(name << " with random weights");
    torch::manual_seed(5);
    auto bundle = models::make(name);
    models::settle(bundle);
    same(quantized(bundle, {bundle.example(8)}, {8}, true), bundle.example(64).at(0));
  }
  const auto trained = trained_resnet8(true);
  if (!trained) return;
  INFO("resnet8, trained");
  same(trained->int8, trained->set.inputs[0]);
}

namespace {

/// A network around one operation on `[batch, channels, ...]`: what the program makes of it is what the simulation
/// does.
struct AroundImpl : nn::Module {
  using Operation = std::function<torch::Tensor(const torch::Tensor&)>;
  AroundImpl(int rank, std::int64_t features, Operation operation) : operation_(std::move(operation)), fc(features, 3) {
    if (rank == 3)
      register_module("flat", flat = nn::Conv1d(nn::Conv1dOptions(4, 5, 3).padding(1)));
    else
      register_module("conv", conv = nn::Conv2d(nn::Conv2dOptions(4, 5, 3).padding(1)));
    register_module("fc", fc);
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return fc(operation_(torch::relu(flat ? flat(x) : conv(x))).flatten(1));
  }
  Operation operation_;
  nn::Conv1d flat{nullptr};
  nn::Conv2d conv{nullptr};
  nn::Linear fc;
};
TORCH_MODULE(Around);

void check_operation(const std::string& name, const std::vector<std::int64_t>& sizes, bool has_kernel,
                     const AroundImpl::Operation& operation) {
  INFO(name);
  auto shape = sizes;
  shape.insert(shape.begin(), 8);
  const auto inputs = torch::randn(shape);
  auto after = sizes;
  after[0] = 5;
  after.insert(after.begin(), 2);
  Around net(static_cast<int>(shape.size()), operation(torch::randn(after)).flatten(1).size(1), operation);
  const auto int8 =
      pare::apply(pare::Quantizer{}, pare::capture(net, inputs), {.calibration = pare::Batches{inputs}}).model;
  if (!has_kernel) {
    CHECK_THROWS_WITH(pare::mcu::compile(int8), Catch::Matchers::StartsWith("[pare.mcu.10"));
    return;
  }
  const auto twin = pare::mcu::compile(int8)(inputs);
  CHECK(pare::sqnr_db(int8(inputs), twin) > 35.0);
  CHECK(torch::equal(twin, numbers_as_c(int8, inputs)));
}

}  // namespace

TEST_CASE("pools, means and sums become what they are, or are refused", "[mcu]") {
  torch::manual_seed(11);
  const torch::NoGradGuard no_grad;
  using torch::Tensor;
  const std::vector<std::int64_t> line{4, 5}, square{4, 5, 5};
  check_operation("mean of positions", line, true, [](const Tensor& x) { return x.mean(2); });
  check_operation("mean from behind", square, true, [](const Tensor& x) { return x.mean({-1, -2}); });
  check_operation("adaptive", square, true, [](const Tensor& x) { return torch::adaptive_avg_pool2d(x, {1, 1}); });
  check_operation("avg_pool1d", line, true, [](const Tensor& x) { return torch::avg_pool1d(x, 3); });
  check_operation("avg_pool1d, padded", line, true, [](const Tensor& x) { return torch::avg_pool1d(x, 3, 1, 1); });
  check_operation("max_pool1d", line, true, [](const Tensor& x) { return torch::max_pool1d(x, 3, 2, 1); });
  check_operation("padded line", line, true, [](const Tensor& x) { return torch::avg_pool1d(x, 2); });
  check_operation("mean of channels", line, false, [](const Tensor& x) { return x.mean(1); });
  check_operation("mean of channels and height", square, false, [](const Tensor& x) { return x.mean({1, 2}); });
  check_operation("mean of channels and width", square, false, [](const Tensor& x) { return x.mean({1, 3}); });
  check_operation("mean of height", square, false, [](const Tensor& x) { return x.mean(2); });
  check_operation("pool without a batch", line, false, [](const Tensor& x) { return torch::avg_pool2d(x, 3); });
  check_operation("max pool without a batch", line, false, [](const Tensor& x) { return torch::max_pool2d(x, 3); });
  check_operation("broadcast sum", {4, 4, 4}, false,
                  [](const Tensor& x) { return torch::avg_pool2d(x, 4) + torch::max_pool2d(x, 2).narrow(1, 0, 1); });
}

TEST_CASE("padded channels are refused", "[mcu]") {
  torch::manual_seed(12);
  const torch::NoGradGuard no_grad;
  struct PadsImpl : nn::Module {
    PadsImpl() { register_module("conv", conv), register_module("fc", fc), eval(); }
    torch::Tensor forward(const torch::Tensor& x) {
      return fc(torch::relu(conv(torch::constant_pad_nd(x, {0, 0, 1, 1}))).flatten(1));
    }
    nn::Conv1d conv{nn::Conv1dOptions(5, 4, 3)};
    nn::Linear fc{24, 3};
  };
  nn::ModuleHolder<PadsImpl> net(std::make_shared<PadsImpl>());
  const auto x = torch::randn({4, 3, 8});
  const auto int8 = pare::apply(pare::Quantizer{}, pare::capture(net, x), {.calibration = pare::Batches{x}}).model;
  CHECK(raises("pare.mcu.101", [&] { static_cast<void>(pare::mcu::compile(int8)); }));
}

TEST_CASE("scores may get another shape behind the last layer", "[mcu]") {
  torch::manual_seed(13);
  const torch::NoGradGuard no_grad;
  struct ShapedImpl : nn::Module {
    ShapedImpl() { register_module("fc", fc), eval(); }
    torch::Tensor forward(const torch::Tensor& x) {
      return torch::softmax(fc(x).unsqueeze(1).view({-1, 2, 3}), 2).flatten(1);
    }
    nn::Linear fc{8, 6};
  };
  nn::ModuleHolder<ShapedImpl> net(std::make_shared<ShapedImpl>());
  const auto x = torch::randn({16, 8});
  const auto int8 = pare::apply(pare::Quantizer{}, pare::capture(net, x), {.calibration = pare::Batches{x}}).model;
  const auto twin = pare::mcu::compile(int8)(x);
  CHECK(torch::equal(twin, torch::softmax(numbers_as_c(int8, x).view({-1, 2, 3}), 2).flatten(1)));
  CHECK(pare::sqnr_db(int8(x), twin) > 50.0);
}

TEST_CASE("the twin refuses what the program cannot be or take", "[mcu]") {
  torch::manual_seed(7);
  auto bundle = models::make("lenet");
  models::settle(bundle);
  bundle.module->eval();
  const auto plain = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  CHECK(raises("pare.mcu.102", [&] { static_cast<void>(pare::mcu::compile(plain)); }));
  const auto twin = pare::mcu::compile(quantized(bundle, {bundle.example(4)}));
  auto inputs = bundle.example(2);
  CHECK(raises("pare.run.102", [&] { static_cast<void>(twin.run({inputs[0].to(torch::kDouble)})); }));
  CHECK(raises("pare.run.103", [&] { static_cast<void>(twin.run({inputs[0].flatten(1)})); }));
  CHECK(raises("pare.run.101", [&] { static_cast<void>(twin.run({})); }));
  CHECK(raises("pare.execute.101", [&] { static_cast<void>(twin.profile(inputs, 0)); }));
}

TEST_CASE("sums that may leave 32 bits are refused", "[mcu]") {
  torch::manual_seed(7);
  torch::nn::Linear wide(80'000, 4);
  const torch::NoGradGuard no_grad;
  wide->weight.fill_(0.01);
  wide->eval();
  const auto model = pare::apply(pare::Quantizer{}, pare::capture(wide, torch::rand({2, 80'000})),
                                 {.calibration = pare::Batches{torch::rand({2, 80'000})}})
                         .model;
  CHECK(raises("pare.mcu.101", [&] { static_cast<void>(pare::mcu::compile(model)); }));
}
