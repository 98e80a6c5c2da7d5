// What a graph and its editor are asked for that is not there, and graphs that only a foreign file can hold.
#include <torch/torch.h>

#include <string>
#include <utility>

#include "pare/graph/graph_builder.hpp"
#include "pare/graph/rewriter.hpp"
#include "pare/graph/text.hpp"
#include "pare/graph/verify.hpp"
#include "src/graph/check_foreign.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

pare::Model graph_error_model() {
  auto graph = pare::parse_graph(R"(graph {
    dim n = 2
    input %x : f32[n, 4]
    weight $w : f32[4, 4]
    %0 = aten::linear(%x, $w) : f32[n, 4]  # block.linear in block
    %1 = aten::relu(%0) : f32[n, 4]  # block.relu in block
    output %1
  })");
  pare::Weights weights;
  weights["w"] = {torch::eye(4), true, {}};
  return {std::move(graph), std::move(weights)};
}

// The same with one more line, whose result is %2.
pare::Model error_graph_with_line(const std::string& line) {
  auto text = pare::print(graph_error_model().graph());
  text.replace(text.find("  output %1"), 11, "  " + line + "\n  output %2");
  return {pare::parse_graph(text), graph_error_model().weights()};
}

void check_error_graph_untouched(const pare::Model& model) {
  CHECK(pare::print(model) == pare::print(graph_error_model()));
  CHECK_NOTHROW(pare::verify(model));
  CHECK(model(torch::full({3, 4}, -1.0)).equal(torch::zeros({3, 4})));
}

}  // namespace

TEST_CASE("an operand that the operator has not is refused, and the node is named", "[graph]") {
  auto model = graph_error_model();
  pare::Rewriter rewriter(model);
  const auto id = model.graph().find("block.relu");
  const auto& relu = model.graph().node(id);
  CHECK(raises("pare.graph.102", [&] { static_cast<void>(relu.operand("inplace")); }));
  CHECK(raises("pare.graph.102", [&] { static_cast<void>(relu.operand(1)); }));
  CHECK(raises("pare.graph.102", [&] { static_cast<void>(relu.input(1)); }));
  CHECK(raises("pare.graph.102", [&] { rewriter.set_operand(id, "inplace", pare::Flag::True); }));
  CHECK(raises("pare.graph.102", [&] { rewriter.set_operand(id, 1, pare::Flag::True); }));
  CHECK(path_raised([&] { rewriter.set_operand(id, 1, pare::Flag::True); }) == "block.relu");
  CHECK(path_raised([&] { static_cast<void>(relu.operand("inplace")); }) == "block.relu");
  check_error_graph_untouched(model);
}

TEST_CASE("a node that was erased, or was never there, is refused by everything that takes one", "[graph]") {
  auto model = graph_error_model();
  pare::Rewriter rewriter(model);
  const auto relu = model.graph().find("block.relu");
  const auto value = model.graph().node(relu).output();
  const auto erased = rewriter.insert_after(relu, "aten::tanh", {value});
  rewriter.erase(erased);
  for (const auto id : {erased, pare::NodeId{1000}, pare::kNoNode}) {
    CHECK_FALSE(model.graph().contains(id));
    CHECK(raises("pare.graph.103", [&] { static_cast<void>(model.graph().node(id)); }));
    CHECK(raises("pare.graph.103", [&] { rewriter.erase(id); }));
    CHECK(raises("pare.graph.103", [&] { rewriter.rename(id, "other"); }));
    CHECK(raises("pare.graph.103", [&] { rewriter.replace(id, "aten::tanh"); }));
    CHECK(raises("pare.graph.103", [&] { rewriter.set_operand(id, 0, value); }));
    CHECK(raises("pare.graph.103", [&] { rewriter.insert_before(id, "aten::tanh", {value}); }));
    CHECK(raises("pare.graph.103", [&] { rewriter.insert_after(id, "aten::tanh", {value}); }));
  }
  for (const auto id : {pare::ValueId{1000}, pare::kNoValue}) {
    CHECK(raises("pare.graph.103", [&] { static_cast<void>(model.graph().value(id)); }));
    CHECK(raises("pare.graph.103", [&] { static_cast<void>(model.weight(id)); }));
    CHECK(raises("pare.graph.103", [&] { rewriter.set_type(id, {}); }));
  }
  CHECK(raises("pare.graph.103", [&] { rewriter.insert_after(relu, "aten::tanh", {pare::ValueId{1000}}); }));
  check_error_graph_untouched(model);
}

TEST_CASE("uses, outputs and dims beyond those of the graph are refused", "[graph]") {
  auto model = graph_error_model();
  pare::Rewriter rewriter(model);
  const auto relu = model.graph().find("block.relu");
  const auto x = model.graph().inputs()[0];
  CHECK(raises("pare.graph.102", [&] { rewriter.replace_use({pare::kNoNode, 1}, x, x); }));
  CHECK(raises("pare.graph.102", [&] { rewriter.replace_use({relu, 1}, x, x); }));
  CHECK(raises("pare.graph.103", [&] { rewriter.replace_use({pare::NodeId{1000}, 0}, x, x); }));
  CHECK(raises("pare.graph.103", [&] { rewriter.limit_dim(1, 2); }));
  check_error_graph_untouched(model);
}

TEST_CASE("a node whose results are used stays", "[graph]") {
  auto model = graph_error_model();
  const auto copy = model;
  pare::Rewriter rewriter(model);
  const auto linear = model.graph().find("block.linear"), relu = model.graph().find("block.relu");
  for (const auto id : {linear, relu}) {  // one feeds a node, the other is the output
    CHECK(raises("pare.graph.112", [&] { rewriter.erase(id); }));
    CHECK(path_raised([&] { rewriter.erase(id); }) == model.graph().node(id).name);
  }
  check_error_graph_untouched(model);
  rewriter.replace_uses(model.graph().node(relu).output(), model.graph().node(linear).output());
  rewriter.erase(relu);
  CHECK_NOTHROW(pare::verify(model));
  CHECK(model(torch::full({3, 4}, -1.0)).equal(torch::full({3, 4}, -1.0)));
  check_error_graph_untouched(copy);
}

TEST_CASE("a weight does not take the path of another", "[graph]") {
  auto model = graph_error_model();
  pare::Rewriter rewriter(model);
  const auto add = [&] { rewriter.add_weight("w", torch::zeros({2})); };
  CHECK(raises("pare.graph.113", add));
  CHECK(path_raised(add) == "w");
  CHECK(model.weight("w").equal(torch::eye(4)));
  CHECK(model.weights().begin()->second.is_parameter);
  check_error_graph_untouched(model);
  CHECK(model.graph().value(rewriter.add_weight("v", torch::zeros({2}))).name == "v");
}

TEST_CASE("a node with operands beyond its schema does not verify", "[graph]") {
  for (const bool more : {true, false}) {
    pare::GraphBuilder build;
    const pare::TensorType type{torch::kFloat, {2, 4}};
    const auto x = build.input("x", type);
    build.output(build.output_of(build.node(pare::Op("aten::relu"), {x}, {type}, "block.relu", "block")));
    if (more) {
      build.last().operands.emplace_back(1.5);
    } else {
      build.last().operands.clear();
    }
    const auto graph = std::move(build).finish();
    CHECK(raises("pare.graph.203", [&] { pare::verify(graph); }));
    CHECK(path_raised([&] { pare::verify(graph); }) == "block.relu");
  }
}

TEST_CASE("operators that reach beyond their operands are refused in a foreign graph", "[graph]") {
  CHECK_NOTHROW(pare::check_foreign(graph_error_model()));
  for (const auto* call :
       {"aten::as_strided(%1, [9, 1000], [1, 1], 0) : f32[9, 1000]", "aten::resize_(%1, [9999], none) : f32[9999]",
        "aten::set_.source_Tensor(%1, %0) : f32[n, 4]", "aten::from_file(\"weights\", true, 6) : f32[6]",
        "aten::unsafe_split.Tensor(%1, 4, 1) : f32[n, 4]", "aten::relu.out(%1, %0) : f32[n, 4]"}) {
    INFO(call);
    const auto model = error_graph_with_line(std::string("%2 = ") + call + "  # tail.call in tail");
    CHECK_NOTHROW(pare::verify(model));  // a graph it is: only where it comes from makes the difference
    CHECK(raises("pare.graph.210", [&] { pare::check_foreign(model); }));
    CHECK(path_raised([&] { pare::check_foreign(model); }) == "tail.call");
  }
}

TEST_CASE("results of other types than a foreign graph says are refused", "[graph]") {
  for (const auto* call : {"aten::relu(%1) : f32[n, 3000000]", "aten::relu(%1) : f32[2, 4]",
                           "aten::relu(%1) : i64[n, 4]", "aten::relu(%1) : f32[n]", "aten::t(%1) : f32[n, 4]"}) {
    INFO(call);
    const auto model = error_graph_with_line(std::string("%2 = ") + call + "  # tail.call in tail");
    CHECK_NOTHROW(pare::verify(model));
    CHECK(raises("pare.graph.211", [&] { pare::check_foreign(model); }));
    CHECK(path_raised([&] { pare::check_foreign(model); }) == "tail.call");
  }
  CHECK_NOTHROW(pare::check_foreign(error_graph_with_line("%2 = aten::t(%1) : f32[4, n]")));
}
