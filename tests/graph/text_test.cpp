// Graphs as text: printed, read back, and refused.
#include <torch/torch.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "pare/graph/graph_builder.hpp"
#include "pare/graph/rewriter.hpp"
#include "pare/graph/text.hpp"
#include "pare/graph/verify.hpp"
#include "tests/fuzz/graph_text_fuzz.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

constexpr const char* kText = R"(graph {
  dim batch = 2
  dim length = 3 from 2
  input %x : f32[batch, 3, 8, 8]
  input %"the mask" : bool[batch*length, (batch*length + 1) / 2, -2*batch + 7]
  weight $conv.weight : f32[4, 3, 3, 3]
  weight $"odd \"path\"\n\x01" : i64[]
  %0 = aten::conv2d(%x, $conv.weight, none, [1, 1], [1, 1], [1, 1], 1) : f32[batch, 4, 8, 8]  # conv in conv
  %1 = aten::dropout(%0, 0.5, training) : f32[batch, 4, 8, 8]  # dropout
  %2, %3 = aten::chunk(%1, 2, 1) : f32[batch, 2, 8, 8], f32[batch, 2, 8, 8]  # block.chunk in block
  %4 = aten::cat({%2, %3}, 1) : f32[batch, 4, 8, 8]  # block.cat in block
  %5 = aten::index.Tensor(%4, {absent, $"odd \"path\"\n\x01"}) : f32[batch, 1, 8, 8]  # "1 odd name" in block
  %6 = aten::relu(%5) : f32[batch, 1, 8, 8] when training  # relu
  %7 = aten::hardtanh(%5, -inf, 1e+30) : f32[batch, 1, 8, 8] when evaluation  # hardtanh
  %8 = pare::training_select(%6, %7) : f32[batch, 1, 8, 8]  # select
  %9 = aten::view(%8, [batch, -1]) : f32[batch, 64]  # view
  %10 = aten::add.Scalar(%9, -9223372036854775808, complex(1.0, -2.5)) : f32[batch, 64]  # add
  %11 = aten::to.device(%10, device("cpu"), 6, false, false, none) : f32[batch, 64]  # to
  aten::equal(%11, %10) guard true  # equal
  %12 = aten::div.Tensor_mode(%11, %10, "floor") : f32[batch, 64]  # div
  %13 = aten::relu_(%12) : f32[batch, 64] barrier  # relu_
  %14 = aten::upsample_nearest2d.vec(%8, none, float[2.0, 0.5]) : f32[batch, 1, 16, 4]  # upsample
  output %13, absent, %14
}
)";

pare::Model relu_model() {
  auto graph = pare::parse_graph(R"(graph {
    dim n = 2
    input %x : f32[n, 4]
    weight $w : f32[4, 4]
    %0 = aten::linear(%x, $w) : f32[n, 4]
    %1 = aten::relu(%0) : f32[n, 4]
    output %1
  })");
  pare::Weights weights;
  weights["w"] = {torch::eye(4), true, {}};
  return {std::move(graph), std::move(weights)};
}

}  // namespace

TEST_CASE("a graph's text reads back exactly", "[graph]") {
  const auto graph = pare::parse_graph(kText);
  CHECK(pare::print(graph) == kText);
  CHECK(fmt::format("{}", pare::parse_graph(pare::print(graph))) == kText);
  CHECK(graph.dims() == std::vector<std::string>{"batch", "length"});
  CHECK(graph.example_dims() == std::vector<std::int64_t>{2, 3});
  const auto& chunk = graph.node(graph.find("block.chunk"));
  CHECK(chunk.outputs.size() == 2);
  CHECK(chunk.module == "block");
  CHECK(graph.node(graph.find("relu_")).barrier);
  CHECK(graph.node(graph.find("relu")).condition == pare::Condition::Training);
  CHECK(graph.node(graph.find("equal")).guard.toBool());
}

TEST_CASE("what the text leaves out is completed", "[graph]") {
  const auto model = relu_model();
  const auto& linear = model.graph().node(model.graph().find("linear"));
  CHECK(linear.operands.size() == 3);
  CHECK(linear.operands[2].is_none());
  CHECK(model(torch::full({3, 4}, -1.0)).equal(torch::zeros({3, 4})));
  CHECK(pare::print(pare::parse_graph("graph { output }")) == "graph {\n  output \n}\n");
}

TEST_CASE("dims may have any name", "[graph]") {
  pare::GraphBuilder build;
  const auto odd = build.dim("the `batch`", 2), word = build.dim("training", 3);
  build.output(build.input("x", {c10::kFloat, {pare::SymbolicInt::dim(odd), pare::SymbolicInt::dim(word)}}));
  const auto graph = std::move(build).finish();
  const auto text = pare::print(graph);
  CHECK(pare::print(pare::parse_graph(text)) == text);
  CHECK(pare::parse_graph(text).dims() == graph.dims());
}

TEST_CASE("wrong text is one error with its place", "[graph]") {
  const auto refused = [](std::string_view id, std::string_view text) {
    return raises(id, [&] { static_cast<void>(pare::parse_graph(text)); });
  };
  CHECK(refused("pare.graph.221", ""));
  CHECK(refused("pare.graph.221", "graph {"));
  CHECK(refused("pare.graph.221", "graph { } more"));
  CHECK(refused("pare.graph.221", "graph { input %x : f33[] }"));
  CHECK(refused("pare.graph.221", "graph { input %x : f32[n] }"));
  CHECK(refused("pare.graph.221", "graph { input %x : f32[] input %x : f32[] }"));
  CHECK(refused("pare.graph.221", "graph { input %\"x : f32[] }"));
  CHECK(refused("pare.graph.221", "graph { %0 = aten::relu(%0) : f32[] }"));
  CHECK(refused("pare.graph.221", "graph { %0 = aten::relu($w) : f32[] }"));
  CHECK(refused("pare.graph.221", "graph { input %x : f32[99999999999999999999] }"));
  CHECK(refused("pare.graph.221", "graph { dim n = 1 input %x : f32[(n) / 0] }"));
  CHECK(refused("pare.graph.221", "graph { dim n = 1 input %x : f32[n*n] }"));
  CHECK(refused("pare.graph.221", "graph { input %x : f32[1 + 2] }"));
  CHECK(refused("pare.graph.221", "graph { input %x : f32[] %0 = aten::to.device(%x, device(\"moon\"), 6) : f32[] }"));
  CHECK(refused(
      "pare.graph.222", "graph { input %x : f32[" + [] {
        std::string ones = "1";
        for (int i = 0; i < 64; ++i) ones += ", 1";
        return ones;
      }() + "] }"));
  CHECK(refused("pare.graph.101", "graph { input %x : f32[] %0 = aten::no_such_op(%x) : f32[] }"));
  CHECK(refused("pare.graph.111", "graph { %0 = aten::relu() : f32[] }"));
  CHECK(refused("pare.graph.111", "graph { input %x : f32[] %0 = aten::relu(%x, 1) : f32[] }"));
  CHECK(refused("pare.graph.204", "graph { input %x : f32[] %0 = aten::relu(3) : f32[] }"));
  CHECK(refused("pare.graph.204", "graph { input %x : f32[] %0 = aten::dropout(%x, 1, true) : f32[] }"));
  CHECK(refused("pare.graph.205", "graph { input %x : f32[] %0, %1 = aten::relu(%x) : f32[], f32[] }"));
  CHECK(refused("pare.graph.207", "graph { input %x : f32[] %0 = aten::relu(%x) : f32[] when training output %0 }"));
  try {
    static_cast<void>(pare::parse_graph("graph {\n  dim n = x\n}"));
    FAIL("accepted");
  } catch (const pare::Error& error) {
    CHECK(std::string(error.what()) == "[pare.graph.221] line 2, column 11: a number expected");
  }
}

TEST_CASE("verify names what is wrong with a graph", "[graph]") {
  auto model = relu_model();
  pare::Rewriter rewriter(model);
  const auto linear = model.graph().find("linear"), relu = model.graph().find("relu");
  const auto broken = [&](std::string_view id) { return raises(id, [&] { pare::verify(model); }); };
  CHECK_NOTHROW(pare::verify(model));
  SECTION("a repeated name") {
    rewriter.rename(relu, "linear");
    CHECK(broken("pare.graph.201"));
  }
  SECTION("a value used before it is computed") {
    rewriter.set_operand(linear, 0, model.graph().node(relu).output());
    CHECK(broken("pare.graph.202"));
  }
  SECTION("an unknown value") {
    rewriter.set_operand(relu, 0, pare::ValueId{1000});
    CHECK(broken("pare.graph.202"));
  }
  SECTION("an operand of another kind") {
    rewriter.set_operand(relu, 0, 1.5);
    CHECK(broken("pare.graph.204"));
  }
  SECTION("a size over an unknown dim") {
    rewriter.set_type(model.graph().node(relu).output(), {c10::kFloat, {pare::SymbolicInt::dim(7)}});
    CHECK(broken("pare.graph.206"));
  }
  SECTION("a weight of another shape") {
    model.set_weight("w", torch::ones({5, 4}));
    CHECK(broken("pare.graph.209"));
  }
  SECTION("no such weight") {
    CHECK(raises("pare.graph.208", [&] { pare::verify(pare::Model(model.graph(), {})); }));
  }
}

TEST_CASE("damaged text never does more than be refused", "[graph]") {
  std::vector<std::string> corpus{kText};
  for (const auto& entry : std::filesystem::directory_iterator(PARE_SOURCE_DIR "/tests/fuzz/corpus/graph_text")) {
    std::stringstream content;
    content << std::ifstream(entry.path(), std::ios::binary).rdbuf();
    corpus.push_back(content.str());
  }
  REQUIRE(corpus.size() > 5);
  std::uint32_t random = 1;
  const auto draw = [&](std::size_t bound) {
    random = random * 1664525U + 1013904223U;
    return (random >> 8) % bound;
  };
  for (const auto& text : corpus) {
    CHECK(fuzz_graph_text(text));
    for (int i = 0; i < 400 && !text.empty(); ++i) {
      auto damaged = text;
      const auto at = draw(damaged.size());
      switch (draw(4)) {
        case 0:
          damaged.resize(at);
          break;
        case 1:
          damaged[at] = static_cast<char>(draw(256));
          break;
        case 2:
          damaged.erase(at, 1 + draw(20));
          break;
        default:
          damaged.insert(at, damaged.substr(draw(damaged.size()), 1 + draw(20)));
      }
      if (!fuzz_graph_text(damaged)) {
        CAPTURE(damaged);
        FAIL("not an Error");
      }
    }
  }
}
