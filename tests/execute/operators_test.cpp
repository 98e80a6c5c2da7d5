// Operators one by one: float32 and int8, odd geometries, weight schemes that oneDNN has no kernel for, bad options.
#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "src/execute/executor.hpp"
#include "tests/execute/packed_steps.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using torch::Tensor;
using Forward = std::function<Tensor(const Tensor&)>;

/// A module whose forward the test writes beside its layers.
struct Net : nn::Module {
  template <class Layer>
  Layer add(const std::string& name, Layer layer) {
    return register_module(name, layer);
  }
  Tensor forward(const Tensor& x) { return body(x); }
  Forward body;
};

struct Case {
  std::string name;
  std::vector<int64_t> sizes;  ///< of the input, less the batch
  std::function<Forward(Net&)> build;
};

// Two layers each: what the first stores as integers the second reads.
std::vector<Case> cases() {
  return {
      {"conv1d",
       {4, 33},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv1d(nn::Conv1dOptions(4, 12, 5).stride(2).padding(2)));
         auto b = net.add("b", nn::Conv1d(nn::Conv1dOptions(12, 6, 3).dilation(2)));
         return [=](const Tensor& x) mutable { return b(torch::relu(a(x))); };
       }},
      {"conv2d, signed activations, padding",
       {3, 15, 13},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 10, 3).padding({1, 2})));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(10, 7, 3).padding(1).stride(2)));
         return [=](const Tensor& x) mutable { return b(a(x)); };
       }},
      {"conv3d",
       {2, 7, 9, 8},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv3d(nn::Conv3dOptions(2, 8, 3).padding(1)));
         auto b = net.add("b", nn::Conv3d(nn::Conv3dOptions(8, 4, {1, 3, 3})));
         return [=](const Tensor& x) mutable { return b(torch::relu(a(x))); };
       }},
      {"transposed convolution",
       {6, 9, 9},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(6, 8, 1)));
         auto b = net.add(
             "b", nn::ConvTranspose2d(nn::ConvTranspose2dOptions(8, 5, 3).stride(2).padding(1).output_padding(1)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(5, 3, 1)));
         return [=](const Tensor& x) mutable { return c(torch::relu(b(torch::relu(a(x))))); };
       }},
      {"depthwise, grouped and pointwise",
       {8, 14, 14},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(8, 48, 1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(48, 48, 3).padding(1).groups(48)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(48, 32, 3).groups(4)));
         auto d = net.add("d", nn::Conv2d(nn::Conv2dOptions(32, 8, 1)));
         return [=](const Tensor& x) mutable { return d(torch::relu(c(torch::relu6(b(torch::relu6(a(x))))))); };
       }},
      {"residual sums, relu behind signed grids, hardswish",
       {16, 10, 10},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(16, 16, 3).padding(1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(16, 16, 1)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(16, 16, 3).padding(1)));
         auto d = net.add("d", nn::Conv2d(nn::Conv2dOptions(16, 4, 1)));
         return [=](const Tensor& x) mutable {
           auto y = a(x);
           auto z = b(y) + y;
           auto w = torch::relu(c(z) + z);
           return d(torch::hardswish(b(w)));
         };
       }},
      {"a sum with the convolution's own input, made outside oneDNN",
       {12, 9, 9},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(12, 12, 3).padding(1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(12, 12, 3).padding(1)));
         return [=](const Tensor& x) mutable {
           auto y = torch::sin(a(x));
           return torch::relu(b(y) + y);
         };
       }},
      {"hardtanh around an offset grid",
       {8, 6, 6},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(8, 8, 1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(8, 8, 1)));
         return [=](const Tensor& x) mutable { return b(torch::hardtanh(a(x), -0.2, 0.5)); };
       }},
      {"linear over sequences",
       {11, 24},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Linear(24, 40));
         auto b = net.add("b", nn::Linear(nn::LinearOptions(40, 24).bias(false)));
         return [=](const Tensor& x) mutable { return b(torch::gelu(a(x))) + x; };
       }},
      {"matrix products",
       {6, 20},
       [](Net& net) -> Forward {
         auto q = net.add("q", nn::Linear(20, 16));
         auto k = net.add("k", nn::Linear(20, 16));
         auto v = net.add("v", nn::Linear(20, 16));
         auto o = net.add("o", nn::Linear(16, 5));
         return [=](const Tensor& x) mutable {
           auto weights = torch::softmax(torch::bmm(q(x), k(x).transpose(1, 2)) / 4.0, -1);
           return o(torch::matmul(weights, v(x)));
         };
       }},
      {"concatenation, pooling, global mean",
       {3, 18, 18},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(3, 8, 1)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(16, 300, 1)));
         auto d = net.add("d", nn::Linear(300, 7));
         return [=](const Tensor& x) mutable {
           auto y = torch::cat({torch::relu(a(x)), torch::relu(b(x))}, 1);
           y = torch::avg_pool2d(torch::max_pool2d(y, 3, 2, 1), 2);
           return d(torch::adaptive_avg_pool2d(torch::relu(c(y)), {1, 1}).flatten(1));
         };
       }},
      {"functions of one number, and a norm without weights",
       {7, 24},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Linear(24, 24));
         auto b = net.add("b", nn::Linear(24, 6));
         auto norm = net.add("norm", nn::LayerNorm(nn::LayerNormOptions({24}).elementwise_affine(false)));
         return [=](const Tensor& x) mutable {
           auto y = norm(a(x));
           y = torch::mish(y) + torch::softplus(y, 2) + torch::log_sigmoid(y) + torch::clamp_max(y, 0.5);
           y = torch::sqrt(torch::abs(y)) + torch::exp(-torch::square(y)) + torch::log(torch::abs(y) + 1);
           return b(y);
         };
       }},
      {"branches that training drops, and noise that it adds",
       {8, 9, 9},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(8, 8, 3).padding(1)));
         auto norm = net.add("norm", nn::BatchNorm2d(8));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(8, 8, 1)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(8, 8, 1)));
         return [=, &net](const Tensor& x) mutable {
           auto y = norm(a(x));
           if (net.is_training()) y = y.div(0.8).mul_(torch::rand({y.size(0), 1, 1, 1}).add(0.8).floor_());
           y = torch::relu(b(y + x));
           if (net.is_training()) y = y + torch::randn_like(y);
           return c(y);
         };
       }},
      {"attention to a learned vector",
       {9, 24},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Linear(24, 16));
         auto b = net.add("b", nn::Linear(24, 5));
         const auto query = net.register_parameter("query", torch::randn({16}));
         return [=](const Tensor& x) mutable {
           const auto weights = torch::softmax(torch::matmul(torch::tanh(a(x)), query), 1);
           return b(torch::bmm(weights.unsqueeze(1), x).squeeze(1));
         };
       }},
      {"four channels and one",
       {4, 9, 9},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(4, 6, 3)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(1, 6, 3)));
         return [=](const Tensor& x) mutable { return a(x) + b(x.slice(1, 0, 1)); };
       }},
  };
}

struct Built {
  std::shared_ptr<Net> net = std::make_shared<Net>();
  pare::Model model;
  std::vector<int64_t> sizes;
  [[nodiscard]] Tensor example(int64_t batch) const {
    auto all = sizes;
    all.insert(all.begin(), batch);
    return torch::randn(all);
  }
};

Built build(const Case& one) {
  torch::manual_seed(7);
  Built result;
  result.sizes = one.sizes;
  result.net->body = one.build(*result.net);
  result.net->eval();
  result.model = pare::capture(*result.net, result.example(2));
  return result;
}

pare::Model quantize(const Built& built, const pare::AnyPass& pass) {
  pare::Batches calibration{built.example(4), built.example(4)};
  return pare::apply(pass, built.model, {.calibration = calibration}).model;
}

const Case& named(const std::vector<Case>& all, std::string_view name) {
  return *std::ranges::find_if(all, [&](const Case& one) { return one.name.starts_with(name); });
}

}  // namespace

TEST_CASE("each operator compiles to what it computes, in float32 and in int8", "[execute]") {
  const torch::NoGradGuard no_grad;
  for (const auto& one : cases()) {
    DYNAMIC_SECTION(one.name) {
      const auto built = build(one);
      const auto simulated = quantize(built, pare::Quantizer{});
      for (const bool tune : {true, false}) {
        const auto compiled = pare::compile(built.model, {.tune = tune});
        const auto packed = pare::compile(simulated, {.tune = tune});
        for (const int64_t batch : {1, 5}) {
          const auto x = built.example(batch);
          CHECK(pare::sqnr_db(built.net->forward(x), compiled(x)) > 100.0);
          CHECK(pare::sqnr_db(simulated(x), packed(x)) > 30.0);
        }
        CHECK(check_packed_steps(simulated, packed, {built.example(3)}) > 0);
      }
    }
  }
}

TEST_CASE("weight schemes without an integer kernel still compute the simulation", "[execute]") {
  const torch::NoGradGuard no_grad;
  const auto all = cases();
  const std::vector<std::pair<std::string, pare::AnyPass>> schemes{
      {"per tensor", pare::Quantizer{.granularity = pare::PerTensor{}}},
      {"affine", pare::Quantizer{.symmetric_weights = false}},
      {"grouped", pare::Quantizer{.granularity = pare::PerGroup{4}}},
      {"4 bits", pare::Quantizer{.weights = pare::Bits{4}}},
      {"weight only", pare::Quantizer{.weight_only = true}},
  };
  for (const auto* name : {"depthwise", "linear"})
    for (const auto& [scheme, pass] : schemes) {
      DYNAMIC_SECTION(name << ", " << scheme) {
        if (scheme == "grouped" && std::string_view(name) == "depthwise") continue;  // 9 weights are no group of 4
        const auto built = build(named(all, name));
        const auto simulated = quantize(built, pass);
        const auto x = built.example(3);
        CHECK(pare::sqnr_db(simulated(x), pare::compile(simulated, {})(x)) > 30.0);
      }
    }
}

TEST_CASE("functions of one number and norms without weights have kernels", "[execute]") {
  const torch::NoGradGuard no_grad;
  if (pare::execution_backend() == "ATen") return;
  const auto built = build(named(cases(), "functions of one number"));
  const auto compiled = pare::compile(built.model);
  static_cast<void>(compiled(built.example(2)));
  const auto report = compiled.report();
  CHECK(std::ranges::none_of(report.rows, [](const auto& row) { return row.implementation == "aten"; }));
}

TEST_CASE("several sizes may vary", "[execute]") {
  const torch::NoGradGuard no_grad;
  const auto built = build(named(cases(), "matrix products"));
  pare::CaptureOptions options;
  options.dims = {{"batch", {{0, 0}}}, {"length", {{0, 1}}}};
  const auto model = pare::capture(*built.net, built.example(2), options);
  const auto compiled = pare::compile(model, {.plans = 2});
  for (const int64_t length : {3, 9, 6, 3})
    for (const int64_t batch : {1, 4}) {
      const auto x = torch::randn({batch, length, 20});
      CHECK(pare::sqnr_db(built.net->forward(x), compiled(x)) > 100.0);
    }
}

TEST_CASE("activations of few bits compute what the simulation does", "[execute]") {
  const torch::NoGradGuard no_grad;
  const auto built = build(named(cases(), "residual"));
  const auto simulated = quantize(built, pare::Quantizer{.activations = {3}});
  const auto x = built.example(3);
  CHECK(pare::sqnr_db(simulated(x), pare::compile(simulated, {})(x)) > 60.0);
}

TEST_CASE("inputs may lie in memory as they like, and results are the caller's own", "[execute]") {
  const torch::NoGradGuard no_grad;
  const auto built = build(named(cases(), "conv2d"));
  const auto packed = pare::compile(quantize(built, pare::Quantizer{}), {});
  const auto x = built.example(2);
  const auto expected = packed(x).clone();
  CHECK(torch::equal(packed(x.contiguous(torch::MemoryFormat::ChannelsLast)), expected));
  const auto first = packed(x);
  static_cast<void>(packed(-x));
  CHECK(torch::equal(first, expected));
  CHECK(raises("pare.execute.101", [&] { static_cast<void>(pare::compile(built.model, {.threads = -1})); }));
  CHECK(raises("pare.execute.101", [&] { static_cast<void>(pare::compile(built.model, {.dtype = torch::kHalf})); }));
  CHECK(raises("pare.execute.101", [&] { static_cast<void>(pare::compile(built.model, {.plans = 0})); }));
  CHECK(raises("pare.execute.101", [&] {
    static_cast<void>(pare::compile(built.model, {.node_precision = {{"nobody", torch::kBFloat16}}}));
  }));
  auto broken = built.model;
  const auto& [path, weight] = *broken.weights().begin();
  broken.set_weight(path, torch::full_like(weight.tensor, std::numeric_limits<float>::quiet_NaN()));
  CHECK(raises("pare.execute.105", [&] { static_cast<void>(pare::compile(broken)); }));
}

TEST_CASE("without oneDNN the model runs on ATen and says so", "[execute]") {
  const torch::NoGradGuard no_grad;
  const auto built = build(named(cases(), "residual"));
  const auto simulated = quantize(built, pare::Quantizer{});
  const pare::CompiledModel compiled(pare::make_aten_executor(simulated, "this build has no oneDNN"));
  const auto x = built.example(2);
  CHECK(torch::equal(simulated(x), compiled(x)));
  CHECK(compiled.report().backend == "ATen: this build has no oneDNN");
  CHECK(compiled.weight_bytes() > 0);
}
