#include <torch/torch.h>

#include "pare/graph/rewriter.hpp"
#include "pare/graph/text.hpp"
#include "tests/support/raises.hpp"

namespace {

pare::Model linear_model() {
  auto graph = pare::parse_graph(
      "graph {\n  dim batch = 2\n  input %x : f32[batch, 3]\n  weight $w : f32[4, 3]\n"
      "  %0 = aten::linear(%x, $w, none) : f32[batch, 4]\n  output %0\n}\n");
  pare::Weights weights;
  weights.emplace("w", pare::Weight{torch::arange(12, torch::kFloat).view({4, 3}).requires_grad_(), true, {"tied.w"}});
  return {std::move(graph), std::move(weights)};
}

}  // namespace

TEST_CASE("one use is redirected, in a list too", "[rewriter]") {
  pare::Model model(
      pare::parse_graph("graph {\n  dim batch = 2\n  input %x : f32[batch, 3]\n  input %y : f32[batch, 3]\n"
                        "  %0 = aten::relu(%x) : f32[batch, 3]\n"
                        "  %1 = aten::cat({%x, %y, %x}, 1) : f32[batch, 9]\n  output %1\n}\n"),
      {});
  pare::Rewriter rewriter(model);
  const auto x = model.graph().inputs()[0];
  const auto relu = model.graph().nodes(pare::op("aten::relu")).at(0),
             cat = model.graph().nodes(pare::op("aten::cat")).at(0);
  rewriter.replace_use({cat, 0}, x, model.graph().node(relu).output());
  const auto a = torch::randn({2, 3}), b = torch::randn({2, 3});
  CHECK(torch::equal(model(a, b), torch::cat({torch::relu(a), b, torch::relu(a)}, 1)));
}

TEST_CASE("a selection is recorded so that it can be repeated", "[rewriter]") {
  auto model = linear_model();
  const auto before = model;
  const auto live = model.weight("w");
  pare::Rewriter rewriter(model);
  rewriter.narrow("w", 0, {0, 1, 3});
  rewriter.narrow("tied.w", -1, {2, 0});

  const std::vector<pare::Narrowing> expected{{0, {0, 1, 3}}, {1, {2, 0}}};
  CHECK((model.weights().narrowings("w") == expected));
  CHECK((model.weights().narrowings("tied.w") == expected));
  CHECK(before.weights().narrowings("w").empty());
  CHECK(model.weights().narrowings("absent").empty());
  CHECK(model.weight("w").equal(torch::tensor({{2.F, 0.F}, {5.F, 3.F}, {11.F, 9.F}})));
  CHECK(model.weight("w").requires_grad());
  CHECK(model.weight("w").is_leaf());
  CHECK(before.weight("w").is_same(live));

  auto replayed = live.detach();
  for (const auto& step : model.weights().narrowings("w"))
    replayed = replayed.index_select(step.dim, torch::tensor(step.kept));
  CHECK(replayed.equal(model.weight("w")));
}

TEST_CASE("several cuts at once are the same as one after the other", "[rewriter]") {
  torch::manual_seed(0);
  const auto dtype = GENERATE(torch::kFloat, torch::kChar, torch::kDouble, torch::kBFloat16);
  const auto kernel = GENERATE(1, 2, 3);
  const auto weight = (torch::randn({301, 40, kernel, kernel}) * 50).to(dtype);
  pare::Model model(linear_model().graph(), {{"w", pare::Weight{weight, true, {}}}});
  const std::vector<pare::Narrowing> cuts{
      {0, {5, 3, 300, 17}}, {1, {39, 0, 7}}, {1, {2, 0}}, {3, {kernel - 1}}, {0, {1, 2, 3}}};
  auto expected = weight;
  for (const auto& cut : cuts) expected = expected.index_select(cut.dim, torch::tensor(cut.kept));
  std::vector<std::int64_t> most;  // rows of several pieces
  for (std::int64_t i = 0; i < 301; ++i)
    if (i % 7 != 3) most.push_back(300 - i);
  using Case = std::pair<std::vector<pare::Narrowing>, torch::Tensor>;
  const auto rows = weight.index_select(0, torch::tensor(most));
  for (const auto& [given, wanted] :
       {Case{cuts, expected}, Case{{{1, {3, 4}}}, weight.narrow(1, 3, 2)}, Case{{{0, most}}, rows},
        Case{{{0, most}, {1, {39, 0, 7}}}, rows.index_select(1, torch::tensor({39, 0, 7}))}}) {
    auto cut = model;
    pare::Rewriter rewriter(cut);
    rewriter.narrow("w", given);
    CHECK(cut.weight("w").equal(wanted));
    CHECK((cut.weights().narrowings("w") == given));
  }
}

TEST_CASE("what lies in memory otherwise than it is numbered is cut by its numbers", "[rewriter]") {
  const auto whole = torch::arange(2 * 5 * 6, torch::kFloat).view({2, 5, 6});
  for (const auto& weight : {whole.transpose(0, 2), whole.narrow(1, 1, 3), whole.expand({2, 5, 6}).select(2, 1)}) {
    pare::Model model(linear_model().graph(), {{"w", pare::Weight{weight, true, {}}}});
    pare::Rewriter(model).narrow("w", {{0, {1}}, {1, {2, 0}}});
    CHECK(model.weight("w").equal(weight.narrow(0, 1, 1).index_select(1, torch::tensor({2, 0}))));
  }
}

TEST_CASE("a selection that the tensor has not is refused", "[rewriter]") {
  auto model = linear_model();
  pare::Rewriter rewriter(model);
  CHECK(raises("pare.graph.104", [&] { rewriter.narrow("nothing", 0, {0}); }));
  CHECK(raises("pare.graph.114", [&] { rewriter.narrow("w", 2, {0}); }));
  CHECK(raises("pare.graph.114", [&] { rewriter.narrow("w", 0, {}); }));
  CHECK(raises("pare.graph.114", [&] { rewriter.narrow("w", 0, {4}); }));
  CHECK(raises("pare.graph.114", [&] { rewriter.narrow("w", {{0, {1, 2}}, {0, {2}}}); }));
  CHECK(model.weight("w").size(0) == 4);
  CHECK(model.weights().narrowings("w").empty());
}
