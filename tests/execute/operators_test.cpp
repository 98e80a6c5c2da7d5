// Operators one by one: float32 and int8, odd geometries, weight schemes that oneDNN has no kernel for, bad options.
#include <torch/torch.h>

#include <set>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "src/execute/executor.hpp"
#include "tests/execute/operator_cases.hpp"
#include "tests/execute/packed_steps.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using torch::Tensor;

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
  if (pare::execution_backend() == "ATen") {
    WARN("skipped: this build has no oneDNN");
    return;
  }
  const auto built = build(named(cases(), "functions of one number"));
  const auto compiled = pare::compile(built.model);
  static_cast<void>(compiled(built.example(2)));
  const auto report = compiled.report();
  CHECK(std::ranges::none_of(report.rows, [](const auto& row) { return row.implementation == "aten"; }));
}

TEST_CASE("no layer is left to a slow kernel", "[execute]") {
  const torch::NoGradGuard no_grad;
  if (pare::execution_backend() == "ATen") {
    WARN("skipped: this build has no oneDNN");
    return;
  }
  const std::set<std::string> layers{"aten::batch_norm", "aten::max_pool2d", "aten::lstm.input", "aten::gru.input",
                                     "aten::add.Tensor", "aten::mul.Tensor", "aten::sub.Tensor", "aten::mul.Scalar"};
  std::set<std::string> seen;
  for (const auto* name : {"a batch norm", "batch norms of", "windows", "sums and products", "an LSTM of",
                           "an LSTM without", "a GRU of", "a GRU without"}) {
    const auto built = build(named(cases(), name));
    for (const auto& model : {built.model, quantize(built, pare::Quantizer{})}) {
      const auto compiled = pare::compile(model);
      static_cast<void>(compiled(built.example(2)));
      for (const auto& row : compiled.report().rows) {
        INFO(name << ": " << row.name << " " << row.op << " " << row.implementation);
        CHECK((row.implementation != "ref:any" || row.op == "aten::cat"));  // of a concatenation: its own reorders
        if (layers.contains(row.op)) CHECK(row.implementation != "aten");
        seen.insert(row.op);
      }
    }
  }
  for (const auto& layer : layers) CHECK((seen.contains(layer) || layer == "aten::mul.Scalar"));
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
  {  // a caller who trains
    const torch::AutoGradMode training(true);
    const auto slices = build(named(cases(), "sums and products"));
    const auto compiled = pare::compile(slices.model);
    auto leaf = slices.example(2).requires_grad_(true);
    CHECK_FALSE(compiled(leaf).requires_grad());
  }
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
