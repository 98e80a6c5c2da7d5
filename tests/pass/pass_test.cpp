// Passes, their context and manager, on small graphs built by hand.
#include <torch/torch.h>

#include <limits>
#include <memory>

#include "pare/core/error.hpp"
#include "pare/graph/graph_builder.hpp"
#include "pare/graph/text.hpp"
#include "pare/graph/verify.hpp"
#include "pare/pass/apply.hpp"
#include "pare/pass/pass_manager.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

// y = relu(x @ w^T + b), then relu again.
pare::Model two_relus() {
  torch::manual_seed(1);
  pare::GraphBuilder build;
  const auto batch = build.dim("batch", 2);
  const auto rows = pare::SymbolicInt::dim(batch);
  const pare::TensorType in{c10::kFloat, {rows, 3}}, out{c10::kFloat, {rows, 4}};
  const auto x = build.input("x", in);
  const auto w = build.weight("fc.weight", {c10::kFloat, {4, 3}});
  const auto b = build.weight("fc.bias", {c10::kFloat, {4}});
  const auto fc = build.node(pare::Op("aten::linear"), {x, w, b}, {out}, "fc", "fc");
  const auto first = build.node(pare::Op("aten::relu"), {build.output_of(fc)}, {out});
  const auto second = build.node(pare::Op("aten::relu"), {build.output_of(first)}, {out});
  build.output(build.output_of(second));
  pare::Weights weights;
  weights["fc.weight"] = {torch::randn({4, 3}).requires_grad_(true), true, {}};
  weights["fc.bias"] = {torch::full({4}, 6.0F).requires_grad_(true), true, {}};
  return {std::move(build).finish(), std::move(weights)};
}

struct ReluToRelu6 {
  pare::Preserved run(pare::Model& model, pare::Context& context) {
    for (auto node : model.graph().nodes(pare::op("aten::relu"))) {
      context.rewriter().replace(node, "aten::relu6");
      context.report().done(node, "relu -> relu6");
    }
    return pare::Preserved::topology();
  }
};

// Does part of its work, then whatever `then` says.
struct HalfWay {
  std::function<void(pare::Model&, pare::Context&)> then;
  pare::Preserved preserved = pare::Preserved::none();
  pare::Preserved run(pare::Model& model, pare::Context& context) {
    const auto node = model.graph().nodes(pare::op("aten::relu")).front();
    context.rewriter().replace(node, "aten::tanh");
    context.rewriter().set_weight("fc.bias", torch::zeros({4}));
    context.report().done(node, "relu -> tanh");
    then(model, context);
    return preserved;
  }
};

struct Validated {
  int bits = 8;
  void validate() const {
    if (bits < 1) pare::fail("pare.test.1", "Validated", "bits must be positive");
  }
  static std::string name() { return fmt::format("Validated{{{}}}", bits_text()); }
  static std::string bits_text() { return "any"; }
  pare::Preserved run(pare::Model&, pare::Context&) { return pare::Preserved::all(); }
};

struct State {
  std::string text;
  std::map<std::string, torch::Tensor> data;
  std::map<std::string, const void*> tensors;
  explicit State(const pare::Model& model) : text(pare::print(model.graph())) {
    for (const auto& [path, weight] : model.weights()) {
      data[path] = weight.tensor.detach().clone();
      tensors[path] = weight.tensor.unsafeGetTensorImpl();
    }
  }
  bool operator==(const State& other) const {
    if (text != other.text || tensors != other.tensors) return false;
    for (const auto& [path, tensor] : data)
      if (!tensor.equal(other.data.at(path))) return false;
    return true;
  }
};

}  // namespace

TEST_CASE("a pass is a struct with run(); apply leaves its argument alone", "[pass]") {
  const auto model = two_relus();
  const State before(model);
  const auto applied = pare::apply(ReluToRelu6{}, model);
  CHECK(State(model) == before);
  CHECK(applied.model.graph().nodes(pare::op("aten::relu")).empty());
  const auto x = torch::randn({5, 3}) * 10;
  CHECK(applied.model(x).equal(
      torch::relu6(torch::relu6(torch::linear(x, model.weight("fc.weight"), model.weight("fc.bias"))))));
  REQUIRE(applied.report.rows().size() == 2);
  const auto& row = applied.report.rows().front();
  CHECK(row.layer == "relu");
  CHECK(row.op == "aten::relu6");
  CHECK(row.pass == "ReluToRelu6");
  CHECK(row.decision == pare::Decision::Done);
  CHECK(row.reason == "relu -> relu6");
}

TEST_CASE("a failing pass leaves the model bit for bit as it was", "[pass]") {
  auto model = two_relus();
  const State before(model);
  std::string id;
  std::function<void(pare::Model&, pare::Context&)> then;
  auto preserved = pare::Preserved::none();
  SECTION("it throws") {
    id = "pare.test.2";
    then = [](auto&, auto&) { pare::fail("pare.test.2", "", "on purpose"); };
  }
  SECTION("LibTorch throws inside it") {
    id = "pare.pass.108";
    then = [](auto&, auto&) { torch::ones({2, 3}).matmul(torch::ones({2, 3})); };
  }
  SECTION("it writes a weight past the tensor's version, as LibTorch's SGD does") {
    id = "pare.pass.107";
    then = [](pare::Model& m, auto&) { at::Tensor(m.weight("fc.weight")).data().add_(1.0); };
  }
  SECTION("it breaks the graph") {
    id = "pare.pass.103";
    then = [](pare::Model& m, pare::Context& c) {
      const auto order = m.graph().nodes();
      c.rewriter().set_operand(order[1], 0, m.graph().node(order[2]).output());
    };
  }
  SECTION("it writes a weight in place") {
    id = "pare.pass.107";
    then = [](pare::Model& m, pare::Context&) {
      const torch::NoGradGuard no_grad;
      m.weights().at("fc.weight").tensor.mul_(2);
    };
  }
  SECTION("it writes a weight in place and throws") {
    id = "pare.test.2";
    then = [](pare::Model& m, pare::Context&) {
      const torch::NoGradGuard no_grad;
      m.weights().at("fc.weight").tensor.fill_(std::numeric_limits<float>::quiet_NaN());
      pare::fail("pare.test.2", "", "on purpose");
    };
  }
  SECTION("it says that it preserved everything") {
    id = "pare.pass.104";
    then = [](auto&, auto&) {};
    preserved = pare::Preserved::all();
  }
  pare::Context context(model);
  CHECK(raises(id, [&] { context.run(HalfWay{then, preserved}, model); }));
  CHECK(State(model) == before);
  REQUIRE(context.full_report().rows().size() == 1);
  CHECK(context.full_report().rows().front().decision == pare::Decision::Declined);
  CHECK(context.full_report().rows().front().reason.find("rolled back") == 0);
  CHECK_NOTHROW(pare::verify(model));
}

TEST_CASE("the manager is a pass, and all of it or nothing", "[pass]") {
  auto model = two_relus();
  const State before(model);
  const auto both = pare::apply(pare::PassManager{pare::PassManager{Validated{}}, ReluToRelu6{}}, model);
  CHECK(both.model.graph().nodes(pare::op("aten::relu6")).size() == 2);
  CHECK(both.report.rows().front().pass == "ReluToRelu6");

  pare::Context context(model);
  const auto fails = HalfWay{[](auto&, auto&) { throw std::logic_error("the host's own"); }};
  struct Halves {
    pare::Preserved run(pare::Model& m, pare::Context& c) {
      const auto node = m.graph().nodes(pare::op("aten::relu")).front();
      c.rewriter().replace(node, "aten::sigmoid");
      c.report().done(node, "sigmoid");
      return pare::Preserved::topology();
    }
  };
  CHECK_THROWS_AS(context.run(pare::PassManager{Halves{}, fails}, model), std::logic_error);
  CHECK(State(model) == before);
  CHECK(context.full_report().count(pare::Decision::Done) == 0);
}

TEST_CASE("a training pass gives itself weights of its own", "[pass]") {
  const auto model = two_relus();
  const State before(model);
  struct Trains {
    pare::Preserved run(pare::Model& m, pare::Context&) {
      m.detach_weights();
      torch::optim::SGD optimizer(m.parameters(), 0.1);
      m(torch::ones({2, 3})).sum().backward();
      optimizer.step();
      return pare::Preserved::graph();
    }
  };
  const auto trained = pare::apply(Trains{}, model);
  CHECK(State(model) == before);
  CHECK_FALSE(trained.model.weight("fc.weight").equal(model.weight("fc.weight")));
}

TEST_CASE("options are validated when a pass is added, and names read well", "[pass]") {
  CHECK(raises("pare.test.1", [] { pare::PassManager{Validated{0}}; }));
  CHECK(pare::AnyPass(Validated{}).name() == "Validated{any}");
  CHECK(pare::AnyPass(ReluToRelu6{}).name() == "ReluToRelu6");
}

TEST_CASE("a context knows its model and its calibration data", "[pass]") {
  auto model = two_relus();
  auto other = two_relus();
  pare::Context context(model, {.calibration = {}, .seed = 7});
  CHECK(context.seed() == 7);
  CHECK(raises("pare.pass.101", [&] { context.run(Validated{}, other); }));
  CHECK(raises("pare.pass.102", [&] { static_cast<void>(context.calibration()); }));
  pare::Context calibrated(model, {.calibration = {torch::ones({1, 3}), torch::ones({2, 3})}});
  CHECK(calibrated.calibration().size() == 2);
}

namespace {

int computed = 0;
struct NodeCount {
  static constexpr auto kDependsOn = pare::Aspect::Structure;
  explicit NodeCount(const pare::Model& model) : nodes(model.graph().nodes().size()) { ++computed; }
  std::size_t nodes;
};
struct BiasSum {
  explicit BiasSum(const pare::Model& model) : sum(model.weight("fc.bias").sum().item<float>()) { ++computed; }
  float sum;
};
struct Both {
  static constexpr auto kDependsOn = pare::Aspect::Structure;
  Both(const pare::Model&, pare::Analyses& analyses)
      : value(static_cast<float>(analyses.get<NodeCount>().nodes) + analyses.get<BiasSum>().sum) {
    ++computed;
  }
  float value;
};
struct Circle {
  Circle(const pare::Model&, pare::Analyses& analyses) { analyses.get<Circle>(); }
};

}  // namespace

TEST_CASE("analyses are cached, and dropped with what they depend on", "[pass]") {
  auto model = two_relus();
  pare::Context context(model);
  computed = 0;
  CHECK(context.analysis<Both>().value == 3 + 24);
  CHECK(context.analysis<NodeCount>().nodes == 3);
  CHECK(computed == 3);

  struct NewBias {
    pare::Preserved preserved;
    pare::Preserved run(pare::Model&, pare::Context& c) {
      c.rewriter().set_weight("fc.bias", torch::zeros({4}));
      return preserved;
    }
  };
  context.run(NewBias{pare::Preserved::graph()}, model);
  CHECK(context.analyses().cached<NodeCount>() != nullptr);
  CHECK(context.analyses().cached<BiasSum>() == nullptr);
  CHECK(context.analyses().cached<Both>() == nullptr);  // it was built on the sum
  CHECK(context.analysis<Both>().value == 3);

  context.run(NewBias{pare::Preserved::none().keep<BiasSum>()}, model);
  CHECK(context.analyses().cached<NodeCount>() == nullptr);
  CHECK(context.analyses().cached<BiasSum>() != nullptr);
  CHECK(raises("pare.pass.106", [&] { context.analysis<Circle>(); }));
  CHECK(context.analysis<NodeCount>().nodes == 3);  // still usable after that
}

TEST_CASE("what a pass says it preserved is checked", "[pass]") {
  struct Edits {
    std::function<void(pare::Rewriter&, pare::Model&)> edit;
    pare::Preserved preserved;
    pare::Preserved run(pare::Model& model, pare::Context& context) {
      edit(context.rewriter(), model);
      return preserved;
    }
  };
  const auto relu = [](const pare::Model& model) { return model.graph().nodes(pare::op("aten::relu")).front(); };
  const std::vector<Edits> wrong{
      {[&](auto& rewriter, auto& model) { rewriter.replace(relu(model), "aten::relu6"); }, pare::Preserved::graph()},
      {[&](auto& rewriter, auto& model) {
         const auto first = model.graph().node(relu(model));
         const auto added = rewriter.insert_after(first.id, "aten::tanh", {first.output()});
         rewriter.replace_uses(first.output(), model.graph().node(added).output(), {added});
       },
       pare::Preserved::topology()},
      {[&](auto& rewriter, auto&) {
         rewriter.set_weight("fc.weight", torch::randn({5, 3}));
       },
       pare::Preserved::graph()},
  };
  for (const auto& pass : wrong) {
    auto model = two_relus();
    const State before(model);
    CHECK(raises("pare.pass.104", [&] { pare::Context(model).run(pass, model); }));
    CHECK(State(model) == before);
  }
  auto model = two_relus();
  CHECK_NOTHROW(pare::Context(model).run(ReluToRelu6{}, model));
}

TEST_CASE("a sink that throws while a failure is logged hides nothing", "[pass]") {
  auto model = two_relus();
  const pare::Log log([](pare::Severity severity, std::string_view) {
    if (severity == pare::Severity::Warning) throw std::runtime_error("the disk is full");
  });
  pare::Context context(model, {.instruments = {pare::log_passes(log)}});
  const HalfWay fails{[](auto&, auto&) { pare::fail("pare.test.2", "", "on purpose"); }};
  CHECK(raises("pare.test.2", [&] { context.run(fails, model); }));
}

TEST_CASE("what two passes preserve together", "[pass]") {
  using pare::Preserved;
  const auto survives = [](const Preserved& preserved) {
    return preserved.survives(typeid(NodeCount), NodeCount::kDependsOn);
  };
  CHECK(survives(Preserved::all() & Preserved::topology()));
  CHECK_FALSE(survives(Preserved::none() & Preserved::topology()));
  CHECK(survives(Preserved::none().keep<NodeCount>() & Preserved::all()));
  CHECK_FALSE(survives(Preserved::none().keep<NodeCount>() & Preserved::none()));
}

TEST_CASE("instruments see every pass and may refuse it", "[pass]") {
  auto model = two_relus();
  const State before(model);
  std::vector<std::string> lines;
  std::vector<std::string> dumps;
  std::vector<std::string> steps;
  const pare::Log log([&](pare::Severity, std::string_view line) { lines.emplace_back(line); });
  const pare::Progress progress([&](const pare::ProgressStep& step) {
    steps.push_back(
        fmt::format("{} {}/{}{}", step.task, step.done, step.total.value_or(0), step.finished ? " end" : ""));
  });
  pare::Timing timing;
  {
    pare::Context context(
        model, {.log = log,
                .instruments = {timing.instrument(), pare::log_passes(log), pare::show_passes(progress, 2),
                                pare::dump_graphs([&](auto title, const auto&) { dumps.emplace_back(title); })}});
    context.run(pare::PassManager{Validated{}, ReluToRelu6{}}, model);
  }
  REQUIRE(timing.entries().size() == 3);
  CHECK(timing.entries()[0].depth == 1);
  CHECK(timing.entries()[2].pass == "PassManager");
  CHECK(timing.text().find("ReluToRelu6") != std::string::npos);
  CHECK(lines.size() == 3);
  CHECK(dumps ==
        std::vector<std::string>{"before ReluToRelu6", "after ReluToRelu6", "before PassManager", "after PassManager"});
  CHECK(steps == std::vector<std::string>{"passes 0/2", "passes 1/2", "passes 2/2", "passes 2/2 end"});

  auto fresh = two_relus();
  const State untouched(fresh);
  const auto relu6 = [](const pare::Model& m) {
    return static_cast<double>(m.graph().nodes(pare::op("aten::relu6")).size());
  };
  pare::Context limited(
      fresh, {.log = log, .instruments = {pare::log_passes(log), pare::enforce_budget("relu6 nodes", 1, relu6)}});
  CHECK(raises("pare.pass.105", [&] { limited.run(ReluToRelu6{}, fresh); }));
  CHECK(State(fresh) == untouched);
}

TEST_CASE("the report is a table and JSON", "[pass]") {
  pare::Report report;
  report.add({"conv1", "aten::conv2d", "Quantizer", pare::Decision::Done, "int8 per channel", {{"sqnr_db", 41.25}}});
  report.add({"fc", "aten::linear", "Quantizer", pare::Decision::Declined, "kept float by \"fc\"", {}});
  CHECK(report.set_figure("fc", "sqnr_db", std::numeric_limits<double>::infinity()));
  CHECK_FALSE(report.set_figure("nowhere", "sqnr_db", 1));
  CHECK(fmt::format("{}", report) ==
        "layer  op            pass       decision  sqnr_db  reason\n"
        "conv1  aten::conv2d  Quantizer  done      41.25    int8 per channel\n"
        "fc     aten::linear  Quantizer  declined  inf      kept float by \"fc\"\n"
        "1 done, 1 declined\n");
  CHECK(report.json(-1) ==
        R"({"stages":[],"layers":[{"name":"conv1","op":"aten::conv2d","pass":"Quantizer","decision":"done",)"
        R"("reason":"int8 per channel","sqnr_db":41.25},{"name":"fc","op":"aten::linear","pass":"Quantizer",)"
        R"("decision":"declined","reason":"kept float by \"fc\"","sqnr_db":null}]})");
}

TEST_CASE("an erased layer keeps its name in the report", "[pass]") {
  struct DropSecondRelu {
    pare::Preserved run(pare::Model& model, pare::Context& context) {
      const auto node = model.graph().nodes(pare::op("aten::relu")).back();
      const auto& relu = model.graph().node(node);
      context.rewriter().replace_uses(relu.output(), relu.input(0));
      context.rewriter().erase(node);
      context.report().done(node, "relu of relu");
      return pare::Preserved::none();
    }
  };
  const auto applied = pare::apply(DropSecondRelu{}, two_relus());
  CHECK(applied.report.rows("relu_1").size() == 1);
}
