#include <torch/torch.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <tuple>

#include "pare/capture/capture.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pipeline/auto.hpp"
#include "pare/pipeline/html_report.hpp"
#include "pare/pipeline/optimization_pipeline.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/pipeline/board.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

// Two tasks on one trunk. One of its features is a thousand times larger than the others and is all that the classes
// read; the value reads the small ones, which a grid of 8 bits for both does not see.
struct TwoTasksImpl : nn::Module {
  TwoTasksImpl()
      : trunk(register_module("trunk", nn::Linear(16, 32))),
        classes(register_module("classes", nn::Linear(32, 3))),
        value(register_module("value", nn::Linear(32, 1))) {
    const torch::NoGradGuard no_grad;
    trunk->weight[0].mul_(1000);
    classes->weight.slice(1, 1).zero_();
    classes->weight.select(1, 0).copy_(torch::tensor({-0.01F, 0.0005F, 0.01F}));
    classes->bias.copy_(torch::tensor({0.0F, 1.0F, 0.0F}));
    value->weight.select(1, 0).zero_();
  }
  std::tuple<torch::Tensor, torch::Tensor> forward(const torch::Tensor& x) {
    const auto features = trunk(x);
    return {classes(features), value(features)};
  }
  nn::Linear trunk, classes, value;
};
TORCH_MODULE(TwoTasks);

struct HeadsFixture {
  HeadsFixture() {
    torch::manual_seed(2);
    TwoTasks net;
    net->eval();
    for (int i = 0; i < 4; ++i) batches.push_back(torch::randn({32, 16}));
    unseen = torch::randn({200, 16});
    model = pare::capture(net, batches[0]);
    expected = model.run({unseen});
  }
  // Share of a value's spread that is right; the classes that are.
  [[nodiscard]] std::vector<pare::Head> heads() const {
    return {{"classes",
             [this](const pare::Predictor& predict) {
               return predict({unseen})[0].argmax(1).eq(expected[0].argmax(1)).to(torch::kDouble);
             },
             5_pct},
            {"value",
             [this](const pare::Predictor& predict) {
               const auto error = (predict({unseen})[1] - expected[1]).abs().flatten();
               return (1 - error / expected[1].std()).to(torch::kDouble);
             },
             5_pct}};
  }
  std::vector<torch::Tensor> batches;
  torch::Tensor unseen;
  pare::Model model;
  std::vector<torch::Tensor> expected;
};

}  // namespace

TEST_CASE("a stage that breaks one head is rolled back, and the report names it", "[pipeline][heads]") {
  const HeadsFixture fixture;
  pare::PipelineOptions options;
  options.calibration = fixture.batches;
  options.heads = fixture.heads();
  options.seconds = 0.02;
  const auto result = pare::OptimizationPipeline{pare::Quantizer{}}.run(fixture.model, options);
  const auto& stage = result.report.steps.stages().at(0);
  CHECK_FALSE(stage.kept);
  CHECK(stage.reason.find("head 'value' falls by") == 0);
  CHECK(stage.reason.find("head 'classes'") == std::string::npos);
  REQUIRE(result.report.heads.size() == 2);
  for (const auto& head : result.report.heads) CHECK(head.within_budget());
  CHECK(result.report.within_budget());

  // Without its budget the same head is reported, and nothing is refused.
  options.heads[1].max_drop = {};
  const auto free = pare::OptimizationPipeline{pare::Quantizer{}}.run(fixture.model, options);
  CHECK(free.report.steps.stages().at(0).kept);
  REQUIRE(free.report.heads.size() == 2);
  CHECK(free.report.heads[0].drop.drop <= 0.05);
  CHECK(free.report.heads[1].drop.drop > 0.05);
  CHECK(free.report.heads[1].drop.samples == 200);
  const auto json = nlohmann::json::parse(free.report.json());
  REQUIRE(json["heads"].size() == 2);
  CHECK(json["heads"][0]["name"] == "classes");
  CHECK(json["heads"][0]["max_drop"] == 0.05);
  CHECK(json["heads"][1]["max_drop"].is_null());
  CHECK(json["heads"][1]["drop"] == free.report.heads[1].drop.drop);
  CHECK(free.report.text().find("value") != std::string::npos);
}

TEST_CASE("the climb keeps the budget of every head", "[auto][heads]") {
  const HeadsFixture fixture;
  pare::AutoOptions options;
  options.calibration = fixture.batches;
  options.heads = fixture.heads();
  options.seconds = 0.02;
  options.explore = 0;
  const auto found = pare::optimize(fixture.model, options);
  CHECK(found.report.within_budget());
  REQUIRE(found.report.heads.size() == 2);
  for (const auto& head : found.report.heads) CHECK(head.within_budget());
  const auto& int8 = found.candidates.at(1);
  CHECK(int8.name == "int8");
  CHECK_FALSE(int8.kept);
  CHECK(int8.heads.at(0).within_budget());
  CHECK_FALSE(int8.heads.at(1).within_budget());
  CHECK(int8.reason.find("head 'value'") == 0);
  // The mean of the heads stands for the whole.
  CHECK(*int8.measured.metric == Approx((int8.heads[0].after + int8.heads[1].after) / 2));
  // Something smaller than float is left of it.
  CHECK(found.candidates.size() > 2);
  CHECK(found.report.after.weight_bytes < found.report.before.weight_bytes);
  // A value is no class: what layers do to it is seen all the same.
  options.explore = 1;
  const auto explored = pare::optimize(fixture.model, options);
  REQUIRE(explored.sensitivity);
  CHECK(explored.sensitivity->layer("trunk").damage.back() > 0);
  const auto page = pare::html_report(explored);
  for (const auto* part : {"<h2>Heads</h2>", "drop of value", ">classes<", "of value"})
    CHECK(page.find(part) != std::string::npos);
}

TEST_CASE("heads that cannot be judged are one clear error", "[pipeline][heads]") {
  const HeadsFixture fixture;
  pare::PipelineOptions options;
  options.calibration = fixture.batches;
  options.heads = fixture.heads();
  options.seconds = 0.02;
  pare::AutoOptions climb;
  climb.calibration = fixture.batches;
  climb.seconds = 0.02;
  const auto refused = [&](const std::string& id) {
    CHECK(raises(id, [&] { (void)pare::OptimizationPipeline{pare::Quantizer{}}.run(fixture.model, options); }));
    climb.heads = options.heads;
    CHECK(raises(id, [&] { (void)pare::optimize(fixture.model, climb); }));
  };
  SECTION("two of one name") {
    options.heads[1].name = "classes";
    refused("pare.pipeline.101");
  }
  SECTION("none") {
    options.heads[1].name.clear();
    refused("pare.pipeline.101");
  }
  SECTION("nothing judges it") {
    options.heads[1].scores = {};
    refused("pare.pipeline.101");
  }
  SECTION("a budget that is none") {
    options.heads[0].max_drop = pare::Ratio{-0.1};
    refused("pare.pipeline.101");
  }
  SECTION("not a number after the first") {
    options.heads[1].scores = [first = true](const pare::Predictor&) mutable {
      return torch::full({4}, std::exchange(first, false) ? 1.0 : std::nan(""));
    };
    refused("pare.pipeline.103");
    try {
      (void)pare::optimize(fixture.model, climb);
    } catch (const pare::Error& error) {
      const std::string text = error.what();
      CHECK(text.find("float32") != std::string::npos);
      CHECK(text.find("head 'value'") != std::string::npos);
    }
  }
  SECTION("another number of samples each time") {
    options.heads[1].scores = [count = 3](const pare::Predictor&) mutable { return torch::ones({++count}); };
    refused("pare.pipeline.104");
  }
  SECTION("the data goes away") {
    options.heads[0].scores = [](const pare::Predictor&) -> torch::Tensor { throw std::runtime_error("no data"); };
    CHECK_THROWS_WITH(pare::optimize(fixture.model, (climb.heads = options.heads, climb)), "no data");
  }
}

namespace {

const pare::Candidate* kept_of(const pare::AutoResult& result) {
  for (const auto& candidate : result.candidates)
    if (candidate.kept) return &candidate;
  return nullptr;
}

}  // namespace

TEST_CASE("what calibration cannot make small enough is pruned, taught and quantized", "[auto][training]") {
  const Board board;
  auto options = board.options(700_B);
  const auto alone = pare::optimize(board.model, options);
  INFO(alone.report.text());
  CHECK_FALSE(alone.report.within_budget());
  CHECK(alone.report.shortfall.find("bytes of compiled weights, 700 allowed") != std::string::npos);

  options.training.data = pare::TrainingData::shuffled({board.points}, 64, 1);
  options.training.fit = {.epochs = 30, .rate = 1e-2};
  const auto taught = pare::optimize(board.model, options);
  INFO(taught.report.text());
  CHECK(taught.report.within_budget());
  const auto* kept = kept_of(taught);
  REQUIRE(kept != nullptr);
  INFO(kept->name);
  CHECK(kept->name.find("distilled, int8") != std::string::npos);
  CHECK(kept->measured.weight_bytes <= 700);
  CHECK(kept->drop.drop <= 0.01);
  CHECK(std::ranges::none_of(alone.candidates, [](const pare::Candidate& one) {
    return one.name.find("distilled") != std::string::npos ||
           (one.measured.weight_bytes <= 700 && one.drop.drop <= 0.01);
  }));
  const auto& rows = taught.report.steps.rows();
  CHECK(std::ranges::any_of(rows,
                            [](const auto& row) { return row.reason.starts_with("taught by the captured model"); }));
  // The same seed and data end in the same numbers; the captured model is as it was.
  const auto again = pare::optimize(board.model, options);
  CHECK(torch::equal(again.model(board.unseen), taught.model(board.unseen)));
  CHECK(pare::sqnr_db(taught.model(board.unseen), taught.compiled(board.unseen)) > 25.0);
  CHECK(torch::equal(taught.original(board.unseen), board.model(board.unseen)));
}

TEST_CASE("where rounding alone loses too much, a network trained with it is tried", "[auto][training]") {
  const HeadsFixture fixture;
  pare::AutoOptions options;
  options.calibration = fixture.batches;
  options.seconds = 0.01;
  options.explore = 0;
  options.heads = fixture.heads();
  options.heads[1].max_drop = 0_pct;
  // Nothing may stay float.
  options.budget.bytes = 1_B;
  const auto smallest = pare::optimize(fixture.model, options).candidates.at(1).measured.weight_bytes;
  options.budget.bytes = pare::Bytes{smallest};
  options.training.data = pare::TrainingData::shuffled({torch::cat(fixture.batches)}, 16, 1);
  options.training.quantized_epochs = 4;
  options.training.quantized_rate = 1e-3;
  const auto found = pare::optimize(fixture.model, options);
  INFO(found.report.text());
  const auto trained = std::ranges::find(found.candidates, "int8, trained quantized", &pare::Candidate::name);
  REQUIRE(trained != found.candidates.end());
  CHECK(trained->measured.weight_bytes <= smallest);
  CHECK(trained->plan.average_bits() == 8);
  REQUIRE(trained->heads.size() == 2);
  for (const auto& head : trained->heads) CHECK(head.drop.samples == 200);
  // It is asked before bf16, and after a few layers in bf16 were not enough.
  const auto tried = [&](std::string_view name) {  // float32 where the processor has no bf16
    return std::ranges::find_if(found.candidates, [&](const auto& one) { return one.name.starts_with(name); }) -
           found.candidates.begin();
  };
  CHECK(tried("int8, 1 of 3 layers") < tried("int8, trained quantized"));
  CHECK(tried("int8, trained quantized") < tried("bf16"));
}

TEST_CASE("training data that is no good is one clear error", "[auto][training]") {
  const Board board;
  auto options = board.options(700_B);
  options.training.data = pare::TrainingData::shuffled({board.points}, 64, 1);
  options.training.fit = {.epochs = 2};
  const auto run = [&] { (void)pare::optimize(board.model, options); };
  SECTION("no batch") {
    options.training.data = pare::TrainingData([](std::int64_t) { return pare::Batches(); });
    CHECK(raises("pare.pipeline.101", run));
  }
  SECTION("a rate that is none") {
    options.training.quantized_rate = -1;
    CHECK(raises("pare.pipeline.101", run));
  }
  SECTION("options of the training") {
    options.training.fit.rate = -1;
    CHECK(raises("pare.distill.120", run));
  }
  SECTION("a loss that is not a number") {
    options.training.loss = [](const auto& own, const auto&, const pare::Batch&) {
      return own[0].sum() * std::nan("");
    };
    CHECK(raises("pare.distill.131", run));
  }
  SECTION("the same, where only what is quantized is trained") {
    options.budget.bytes = {};
    options.budget.max_drop = 0_pct;
    options.scores = [&](const pare::Predictor& predict) {
      const torch::NoGradGuard no_grad;
      return predict({board.unseen})[0].sub(board.model(board.unseen)).abs().amax(1).lt(1e-4).to(torch::kDouble);
    };
    options.training.loss = [](const auto& own, const auto&, const pare::Batch&) {
      return own[0].sum() * std::nan("");
    };
    CHECK(raises("pare.pipeline.109", run));
  }
}
