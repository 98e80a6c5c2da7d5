// What a target asks for beyond this process's own kernels: results as integers, biases as integers.
#include <torch/torch.h>

#include <algorithm>

#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/graph/target.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/compare.hpp"
#include "pare/quantize/quantizer.hpp"
#include "pare/quantize/round_biases.hpp"
#include "tests/support/catch.hpp"

namespace {

namespace nn = torch::nn;

// A residual block, an activation that is not a clamp, a transposed convolution, and a convolution as the last layer.
struct BlocksImpl : nn::Module {
  BlocksImpl() {
    register_module("stem", stem);
    register_module("left", left);
    register_module("right", right);
    register_module("up", up);
    register_module("head", head);
    eval();
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(stem(x));
    y = torch::relu(right(torch::hardswish(left(y))) + y);
    return head(torch::relu(up(y)));
  }
  nn::Conv2d stem{nn::Conv2dOptions(3, 8, 3).padding(1)}, left{nn::Conv2dOptions(8, 8, 3).padding(1)},
      right{nn::Conv2dOptions(8, 8, 3).padding(1)}, head{nn::Conv2dOptions(4, 2, 1)};
  nn::ConvTranspose2d up{nn::ConvTranspose2dOptions(8, 4, 2).stride(2)};
};
TORCH_MODULE(Blocks);

pare::Model captured(Blocks& net) {
  torch::manual_seed(5);
  net = Blocks();
  return pare::capture(net, torch::randn({2, 3, 8, 8}));
}

pare::Applied quantized(const pare::Model& model, const pare::TargetDescription& target) {
  torch::manual_seed(6);
  return pare::apply(pare::Quantizer{.target = &target}, model,
                     {.calibration = pare::Batches{torch::randn({16, 3, 8, 8})}});
}

// Layers of a family whose own result, a clamp behind it included, is rounded.
std::size_t rounded(const pare::Graph& graph, std::string_view op) {
  std::size_t count = 0;
  for (const auto id : graph.nodes(pare::op(op))) {
    auto value = graph.node(id).output();
    if (graph.uses(value).size() != 1 || graph.uses(value)[0].node == pare::kNoNode) continue;
    const auto* user = &graph.node(graph.uses(value)[0].node);
    if (user->is("aten::relu")) user = &graph.node(graph.uses(user->output()).at(0).node);
    count += pare::family_of(user->op) == pare::OpFamily::FakeQuantize ? 1 : 0;
  }
  return count;
}

// How far biases are from whole multiples of s_x * s_w, and the largest multiple.
std::pair<double, double> off_grid(const pare::Model& model) {
  double worst = 0, largest = 0;
  const auto& graph = model.graph();
  for (const auto& region : pare::match_regions(graph)) {
    const auto* input = region.inputs.empty() ? nullptr : graph.producer(region.inputs[0]);
    if (region.bias == pare::kNoValue || !input || pare::family_of(input->op) != pare::OpFamily::FakeQuantize) continue;
    const auto& scales = model.weight(graph.node(region.weight_nodes.back()).input(1));
    const auto unit = (scales.to(torch::kDouble) * *input->operand(1).number()).to(torch::kFloat).to(torch::kDouble);
    const auto integers = model.weight(region.bias).to(torch::kDouble) / unit;
    // A bias is a float32: of large multiples it holds 24 bits.
    const auto error = (integers - integers.round()).abs() / integers.abs().div(1 << 10).clamp_min(1);
    worst = std::max(worst, error.max().item<double>());
    largest = std::max(largest, integers.abs().max().item<double>());
  }
  return {worst, largest};
}

}  // namespace

TEST_CASE("a target whose convolutions write integers only gets them rounded at once", "[quantize]") {
  const torch::NoGradGuard no_grad;
  Blocks net;
  const auto model = captured(net);
  const auto x = torch::randn({4, 3, 8, 8});
  const auto ours = quantized(model, pare::onednn_target());
  const auto theirs = quantized(model, pare::onnxruntime_target());
  CHECK(rounded(ours.model.graph(), "aten::conv2d") == 1);    // the stem
  CHECK(rounded(theirs.model.graph(), "aten::conv2d") == 4);  // and what feeds the sum, the activation, the output
  CHECK(rounded(ours.model.graph(), "aten::conv_transpose2d") == 1);
  const auto rows = theirs.report.rows("up");
  REQUIRE_FALSE(rows.empty());
  CHECK(rows.back().reason.find("float") != std::string::npos);
  for (const auto* one : {&ours, &theirs}) {
    CHECK(pare::sqnr_db(net->forward(x), one->model(x)) > 25.0);
    const auto packed = pare::compile(one->model, {.threads = 1, .tune = false})(x);
    CHECK(pare::sqnr_db(one->model(x), packed) > 40.0);
  }
}

TEST_CASE("a sum of two results and the clamp behind it are rounded once", "[quantize]") {
  const torch::NoGradGuard no_grad;
  struct SumImpl : nn::Module {
    SumImpl() { register_module("stem", stem), register_module("head", head); }
    torch::Tensor forward(const torch::Tensor& x) {
      const auto y = stem(x);
      return head(torch::relu(torch::avg_pool2d(y, 3, 1, 1) + y));
    }
    nn::Conv2d stem{nn::Conv2dOptions(3, 8, 3)}, head{nn::Conv2dOptions(8, 2, 1)};
  };
  nn::ModuleHolder<SumImpl> net(std::make_shared<SumImpl>());
  net->eval();
  const auto x = torch::randn({4, 3, 8, 8});
  const auto model = pare::capture(net, x);
  for (const auto* target : {&pare::onednn_target(), &pare::onnxruntime_target()}) {
    INFO(target->name);
    const auto int8 = quantized(model, *target).model;
    CHECK(rounded(int8.graph(), "aten::relu") == 1);
    for (const auto id : int8.graph().nodes(pare::op("aten::add")))
      CHECK(int8.graph().node(int8.graph().uses(int8.graph().node(id).output()).at(0).node).is("aten::relu"));
    const auto packed = pare::compile(int8, {.threads = 1, .tune = false});
    CHECK(pare::sqnr_db(int8(x), packed(x)) > 40.0);
    const auto rows = packed.report().rows;
    const auto sum = std::ranges::find(rows, std::string("aten::add.Tensor"), &pare::ExecutionReport::Row::op);
    REQUIRE(sum != rows.end());
    CHECK(sum->precision == "int8");
    CHECK(sum->fused.starts_with("relu"));
  }
}

TEST_CASE("biases end on the grid of the sums that they are added to", "[quantize]") {
  const torch::NoGradGuard no_grad;
  Blocks net;
  auto model = captured(net);
  const auto before = model.weight("left.bias").clone();
  const auto int8 = pare::apply(pare::RoundBiases{}, quantized(model, pare::onednn_target()).model).model;
  const auto [worst, largest] = off_grid(int8);
  CHECK(worst < 1e-3);
  CHECK(largest > 1);
  CHECK(torch::equal(model.weight("left.bias"), before));
  // Once there, they stay.
  const auto again = pare::apply(pare::RoundBiases{}, int8, {});
  CHECK(again.report.rows("left").size() == 1);
  CHECK(torch::allclose(again.model.weight("left.bias"), int8.weight("left.bias"), 1e-6));
  // A float model has no grid.
  const auto untouched = pare::apply(pare::RoundBiases{}, model, {});
  CHECK(untouched.report.rows().empty());
  CHECK(torch::equal(untouched.model.weight("left.bias"), before));
}

TEST_CASE("a large bias beside tiny weights fits into 32 bits", "[quantize]") {
  const torch::NoGradGuard no_grad;
  Blocks net;
  static_cast<void>(captured(net));
  net->left->weight[2].fill_(1e-12);
  net->left->bias[2] = 3.0;
  net->left->weight[3].zero_();
  const auto model = pare::capture(net, torch::randn({2, 3, 8, 8}));
  const auto int8 = pare::apply(pare::RoundBiases{}, quantized(model, pare::onednn_target()).model).model;
  const auto [worst, largest] = off_grid(int8);
  CHECK(worst < 1e-3);
  CHECK(largest <= 2147483647.0);
  // A channel without weights is its bias, as fine as 32 bits tell it.
  CHECK(torch::allclose(int8.weight("left.bias")[3], net->left->bias[3], 1e-6, 0.0));
  const auto x = torch::randn({4, 3, 8, 8});
  CHECK(pare::sqnr_db(net->forward(x), int8(x)) > 25.0);
}
