#include <torch/torch.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <tuple>

#include "pare/capture/capture.hpp"
#include "pare/fuse/fold_batch_norm.hpp"
#include "pare/graph/text.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pipeline/optimization_pipeline.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

// A classifier whose labels are its own answers: the float model is right everywhere.
struct Fixture {
  Fixture() {
    torch::manual_seed(0);
    net = nn::Sequential(nn::Conv2d(nn::Conv2dOptions(3, 16, 3).padding(1)), nn::BatchNorm2d(16), nn::ReLU(),
                         nn::Conv2d(nn::Conv2dOptions(16, 32, 3).stride(2)), nn::ReLU(), nn::AdaptiveAvgPool2d(1),
                         nn::Flatten(), nn::Linear(32, 10));
    net->eval();
    for (int i = 0; i < 8; ++i) images.push_back(torch::randn({16, 3, 12, 12}));
    const torch::NoGradGuard no_grad;
    // Centred, or a network of random weights would give one answer to everything.
    net->ptr<nn::LinearImpl>(7)->bias.sub_(net->forward(torch::cat(images)).mean(0));
    std::vector<torch::Tensor> answers;
    for (const auto& batch : images) answers.push_back(net->forward(batch).argmax(1));
    labels = torch::cat(answers);
  }
  [[nodiscard]] pare::PipelineOptions options() const {
    pare::PipelineOptions result;
    result.calibration = pare::Batches(images);
    result.metric = pare::top1(images, labels);
    result.seconds = 0.05;
    return result;
  }
  nn::Sequential net{nullptr};
  std::vector<torch::Tensor> images;
  torch::Tensor labels;
};

// Makes a model useless.
struct Ruin {
  pare::Preserved run(pare::Model& model, pare::Context& context) {
    context.rewriter().set_weight("7.weight", torch::zeros({10, 32}));
    context.report().done(model.graph().nodes().front(), "ruined");
    return pare::Preserved::graph();
  }
};

// Counts its runs.
struct Count {
  pare::Preserved run(pare::Model&, pare::Context&) {
    ++*runs;
    return pare::Preserved::all();
  }
  std::shared_ptr<int> runs;
};

// Quantizes, but dies the first time.
struct Fragile {
  pare::Preserved run(pare::Model& model, pare::Context& context) {
    if (++*runs == 1) pare::fail("pare.test.2", "", "killed");
    return pare::Quantizer{}.run(model, context);
  }
  std::shared_ptr<int> runs = std::make_shared<int>(0);
};

struct Throws {
  pare::Preserved run(pare::Model&, pare::Context&) { pare::fail("pare.test.1", "", "no"); }
};

// Nodes of a graph that hear from their neighbours: both dimensions of the second input are the number of nodes.
struct NeighboursImpl : nn::Module {
  NeighboursImpl() { fc = register_module("fc", nn::Linear(8, 16)); }
  torch::Tensor forward(const torch::Tensor& nodes, const torch::Tensor& edges) {
    return edges.matmul(fc(nodes).relu());
  }
  nn::Linear fc{nullptr};
};
TORCH_MODULE(Neighbours);

}  // namespace

TEST_CASE("a pipeline keeps what stays within the budget and rolls back what does not", "[pipeline]") {
  const Fixture fixture;
  auto net = fixture.net;
  const auto model = pare::capture(net, fixture.images[0]);
  auto options = fixture.options();
  options.budget = {.max_drop = 10_pct};
  const pare::OptimizationPipeline pipeline{pare::FoldBatchNorm{}, Ruin{}, pare::Quantizer{}};
  const auto result = pipeline.run(model, options);

  const auto& stages = result.report.steps.stages();
  REQUIRE(stages.size() == 3);
  CHECK(stages[0].kept);
  CHECK_FALSE(stages[1].kept);
  CHECK(stages[2].kept);
  CHECK(stages[1].reason.find("the metric fell from 1.0000") == 0);
  CHECK(*result.report.before.metric == 1.0);
  CHECK(*result.report.after.metric >= 0.9);
  CHECK(result.report.within_budget());
  // Channels this few are padded by the kernels: not yet a quarter.
  CHECK(result.report.after.weight_bytes < result.report.before.weight_bytes * 6 / 10);
  CHECK(result.report.after.latency.median_ms > 0);
  // The ruined layer is as it was, the kept stages are in the model, and the compiled model is that model.
  CHECK_FALSE(result.model.weight("7.weight").eq(0).all().item<bool>());
  CHECK(torch::equal(model(fixture.images[0]), net->forward(fixture.images[0])));
  CHECK(pare::sqnr_db(result.model(fixture.images[0]), result.compiled(fixture.images[0])) > 25.0);
  const auto json = nlohmann::json::parse(result.report.json());
  CHECK(json["stages"].size() == 3);
  CHECK(json["before"]["metric"] == 1.0);
  CHECK(json["layers"].size() == result.report.steps.rows().size());
  CHECK(result.report.text().find("rolled back") != std::string::npos);
}

TEST_CASE("what the budget asks for and does not get is named", "[pipeline]") {
  const Fixture fixture;
  auto net = fixture.net;
  const auto model = pare::capture(net, fixture.images[0]);
  auto options = fixture.options();
  options.budget = {.bytes = 100_B, .latency_ms = 1e-6};
  const auto result = pare::OptimizationPipeline{pare::Quantizer{}}.run(model, options);
  CHECK_FALSE(result.report.within_budget());
  CHECK(result.report.shortfall.find("100 allowed") != std::string::npos);
  CHECK(result.report.shortfall.find("ms a call") != std::string::npos);
}

TEST_CASE("a pipeline without passes compiles and measures", "[pipeline]") {
  const Fixture fixture;
  auto net = fixture.net;
  const auto model = pare::capture(net, fixture.images[0]);
  const auto result = pare::OptimizationPipeline{}.run(model, fixture.options());
  CHECK(*result.report.after.metric == 1.0);
}

TEST_CASE("without an example, a model that does not run on one sample is timed on a whole batch", "[pipeline]") {
  const Fixture fixture;
  auto net = fixture.net;
  const pare::OptimizationPipeline pipeline{pare::Quantizer{}};
  SECTION("fixed sizes") {
    const auto model = pare::capture(net, fixture.images[0], {.fixed_sizes = true});
    const auto result = pipeline.run(model, fixture.options());
    CHECK(result.report.before.latency.median_ms > 0);
    CHECK(result.report.after.latency.median_ms > 0);
  }
  SECTION("a batch of one takes another path") {
    const auto forward = [&](const std::vector<torch::Tensor>& in) -> std::vector<torch::Tensor> {
      const auto scores = net->forward(in[0]);
      return {in[0].size(0) == 1 ? scores * 2 : scores};
    };
    const auto model = pare::capture_forward(*net, forward, {fixture.images[0]});
    CHECK(pipeline.run(model, fixture.options()).report.after.latency.median_ms > 0);
  }
  SECTION("a size of several dimensions") {
    Neighbours neighbours;
    const auto nodes = torch::randn({6, 8});
    const auto edges = torch::rand({6, 6}).softmax(1);
    const auto model = pare::capture(neighbours, std::tuple{nodes, edges},
                                     {.dims = {{.name = "nodes", .where = {{0, 0}, {1, 0}, {1, 1}}}}});
    pare::PipelineOptions options;
    options.calibration = std::vector<pare::Batch>{{nodes, edges}};
    options.seconds = 0.05;
    CHECK(pipeline.run(model, options).report.after.latency.median_ms > 0);
  }
}

TEST_CASE("bad input to a pipeline is one clear error and leaves the model alone", "[pipeline]") {
  const Fixture fixture;
  auto net = fixture.net;
  const auto model = pare::capture(net, fixture.images[0]);
  const pare::OptimizationPipeline pipeline{pare::Quantizer{}};
  auto options = fixture.options();
  SECTION("a drop without a metric") {
    options.metric = {};
    options.budget.max_drop = 1_pct;
    CHECK(raises("pare.pipeline.101", [&] { (void)pipeline.run(model, options); }));
  }
  SECTION("limits that are no limits") {
    options.budget.bytes = 0_B;
    CHECK(raises("pare.pipeline.101", [&] { (void)pipeline.run(model, options); }));
  }
  SECTION("nothing to run on") {
    options.calibration = {};
    CHECK(raises("pare.pipeline.102", [&] { (void)pipeline.run(model, options); }));
  }
  SECTION("a metric that is not a number") {
    options.metric = [](const pare::Predictor&) { return std::nan(""); };
    CHECK(raises("pare.pipeline.103", [&] { (void)pipeline.run(model, options); }));
  }
  SECTION("labels that do not fit") {
    options.metric = pare::top1(fixture.images, fixture.labels.narrow(0, 0, 20));
    CHECK(raises("pare.pipeline.104", [&] { (void)pipeline.run(model, options); }));
  }
  SECTION("an example that does not fit, before anything is judged") {
    options.example = {torch::randn({3, 12, 12})};
    bool judged = false;
    options.metric = [&](const pare::Predictor&) { return judged = true, 1.0; };
    CHECK(raises("pare.run.103", [&] { (void)pipeline.run(model, options); }));
    CHECK_FALSE(judged);
  }
  SECTION("a pass that throws") {
    const pare::OptimizationPipeline failing{pare::FoldBatchNorm{}, Throws{}};
    CHECK(raises("pare.test.1", [&] { (void)failing.run(model, options); }));
  }
  CHECK(torch::equal(model(fixture.images[0]), net->forward(fixture.images[0])));
}

TEST_CASE("a pipeline that was killed goes on from its checkpoint, bit for bit", "[pipeline]") {
  const Fixture fixture;
  auto net = fixture.net;
  const auto model = pare::capture(net, fixture.images[0]);
  auto options = fixture.options();
  options.budget = {.max_drop = 10_pct};
  const auto folder = std::filesystem::temp_directory_path() / "pare_pipeline_checkpoint_test";
  std::filesystem::remove_all(folder);
  const auto straight =
      pare::OptimizationPipeline{pare::FoldBatchNorm{}, Ruin{}, pare::Quantizer{}}.run(model, options);

  options.checkpoint = folder.string();
  auto counted = std::make_shared<int>(0);
  // The fourth stage throws at first; the three before it are not run again.
  const pare::OptimizationPipeline pipeline{pare::FoldBatchNorm{}, Ruin{}, Count{counted}, Fragile{}};
  CHECK(raises("pare.test.2", [&] { (void)pipeline.run(model, options); }));
  CHECK(*counted == 1);
  const auto resumed = pipeline.run(model, options);
  CHECK(*counted == 1);
  REQUIRE(resumed.report.steps.stages().size() == 4);
  CHECK_FALSE(resumed.report.steps.stages()[1].kept);
  CHECK(resumed.report.steps.rows().size() == straight.report.steps.rows().size());
  CHECK(pare::print(resumed.model.graph()) == pare::print(straight.model.graph()));
  REQUIRE(resumed.model.weights().size() == straight.model.weights().size());
  for (const auto& [path, weight] : straight.model.weights())
    CHECK(torch::equal(weight.tensor, resumed.model.weight(path)));
  CHECK(*resumed.report.after.metric == *straight.report.after.metric);

  SECTION("another pipeline or model is refused") {
    const pare::OptimizationPipeline other{pare::Quantizer{}};
    CHECK(raises("pare.pipeline.107", [&] { (void)other.run(model, options); }));
    auto changed = model;
    changed.set_weight("7.bias", torch::zeros({10}));
    CHECK(raises("pare.pipeline.107", [&] { (void)pipeline.run(changed, options); }));
  }
  SECTION("a damaged file is refused") {
    const auto file = (folder / "pipeline.pare").string();
    std::filesystem::resize_file(file, std::filesystem::file_size(file) / 2);
    CHECK(raises("pare.pipeline.107", [&] { (void)pipeline.run(model, options); }));
    std::ofstream(file) << "half a checkpoint";
    CHECK(raises("pare.pipeline.107", [&] { (void)pipeline.run(model, options); }));
  }
  SECTION("a folder that cannot be written") {
    std::ofstream(folder / "file") << "x";
    options.checkpoint = (folder / "file").string();
    CHECK(raises("pare.pipeline.108", [&] { (void)pipeline.run(model, options); }));
  }
  std::filesystem::remove_all(folder);
}

TEST_CASE("a pipeline is cancelled between stages", "[pipeline]") {
  const Fixture fixture;
  auto net = fixture.net;
  const auto model = pare::capture(net, fixture.images[0]);
  auto options = fixture.options();
  options.cancelled = [asked = 0]() mutable { return ++asked > 1; };
  const pare::OptimizationPipeline pipeline{pare::FoldBatchNorm{}, pare::Quantizer{}};
  CHECK(raises("pare.pipeline.105", [&] { (void)pipeline.run(model, options); }));
}
