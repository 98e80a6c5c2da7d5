#include <torch/torch.h>

#include <limits>

#include "examples/models/bert.hpp"
#include "pare/capture/capture.hpp"
#include "pare/distill/attention_paths.hpp"
#include "pare/distill/distillation.hpp"
#include "pare/distill/distillation_batch.hpp"
#include "pare/distill/distiller.hpp"
#include "pare/distill/drop_layers.hpp"
#include "pare/distill/fit_options.hpp"
#include "pare/distill/hard_targets.hpp"
#include "pare/distill/mini_lm.hpp"
#include "pare/distill/tiny_bert.hpp"
#include "pare/pass/apply.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

constexpr int64_t kWords = 50;

pare::Model make_bert(int64_t width, int64_t layers, uint64_t seed) {
  torch::manual_seed(seed);
  models::SentenceClassifier net(models::BertOptions{
      .vocabulary = kWords, .positions = 16, .layers = layers, .width = width, .heads = 4, .hidden = 2 * width});
  const auto ids = torch::randint(kWords, {2, 8});
  return pare::capture(net, std::tuple{ids, torch::ones_like(ids)},
                       {.dims = {{"batch", {{0, 0}, {1, 0}}}, {"tokens", {{0, 1}, {1, 1}}}}});
}

// Sentences of 5 to 12 words of 12; the label is whether the first word is a small number.
struct Sentences {
  torch::Tensor ids, mask, labels;
};

Sentences sentences(int64_t count) {
  torch::manual_seed(11);
  const auto ids = torch::randint(kWords, {count, 12});
  const auto mask = torch::arange(12).unsqueeze(0).lt(torch::randint(5, 13, {count, 1})).to(torch::kLong);
  return {ids, mask, ids.select(1, 0).lt(kWords / 2).to(torch::kLong)};
}

pare::AttentionPaths heads_and_mask() { return {.heads = 4, .mask = 1}; }

// Remembers what a layer map chose.
struct Chosen {
  pare::LayerMap layers;
  std::shared_ptr<std::vector<pare::LayerPair>> pairs = std::make_shared<std::vector<pare::LayerPair>>();
  void request(pare::FeatureRequest& request) { layers.request(request); }
  void prepare(const pare::DistillationBatch& example) {
    layers.choose(example);
    *pairs = layers.pairs();
  }
  at::Tensor operator()(const pare::DistillationBatch& batch) const { return batch.student.output().sum() * 0; }
};

}  // namespace

TEST_CASE("layer maps by search find the layers that a student was made of", "[distill]") {
  const auto teacher = make_bert(16, 6, 1);
  const auto data = sentences(32);
  for (const auto& kept : std::vector<std::vector<std::int64_t>>{{0, 1, 5}, {0, 1, 2, 5}}) {
    auto student = pare::apply(pare::DropLayers{.stack = "encoder.layer", .keep = kept}, teacher).model;
    Chosen loss{pare::LayerMap::search("encoder.layer", "encoder.layer")};
    pare::Distillation distillation(student, teacher, {data.ids, data.mask}, loss);
    std::vector<pare::LayerPair> expected;
    for (const auto layer : kept) {
      const auto path = fmt::format("encoder.layer.{}", layer);
      expected.push_back({path, path});
    }
    CHECK((*loss.pairs == expected));
  }
}

TEST_CASE("attention is found where transformers keep it, and taught through real layers", "[distill]") {
  const auto teacher = make_bert(32, 4, 2);
  const auto narrow = make_bert(16, 2, 3);
  const auto data = sentences(64);
  const auto map = pare::LayerMap::uniform("encoder.layer", "encoder.layer");
  const auto check = [&](const auto& loss) {
    const pare::Distiller tutor{.teacher = teacher,
                                .loss = loss,
                                .training = pare::TrainingData::shuffled({data.ids, data.mask}, 16),
                                .fit = {.epochs = 12, .rate = 3e-3, .batch_statistics = false}};
    const auto rows = pare::apply(tutor, narrow).report.rows();
    CHECK(rows.back().figures.at("last_loss") < 0.8 * rows.back().figures.at("first_loss"));
    // What is at padding teaches nothing.
    auto student = narrow;
    pare::Distillation distillation(student, teacher, {data.ids, data.mask}, loss);
    student.eval();
    const auto other = torch::where(data.mask.eq(1), data.ids, (data.ids + 7) % kWords);
    CHECK(distillation.step({other, data.mask}).template item<double>() ==
          Approx(distillation.step({data.ids, data.mask}).template item<double>()).epsilon(1e-3));
  };
  check(pare::TinyBert{.layers = map, .attention = heads_and_mask()});
  check(pare::MiniLm{.layers = map, .attention = heads_and_mask()});
  // A wrong path is refused with one that is there.
  auto student = narrow;
  try {
    pare::AttentionPaths wrong = heads_and_mask();
    wrong.query = "attention.self.querry";
    pare::Distillation(student, teacher, {data.ids, data.mask}, pare::MiniLm{.layers = map, .attention = wrong});
    FAIL("a path that does not exist was accepted");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.distill.102");
    CHECK(std::string(error.what()).find("attention.self.query") != std::string::npos);
  }
}

TEST_CASE("a batch says what it lacks, and who disagrees about its shape", "[distill]") {
  pare::DistillationBatch batch;
  CHECK(raises("pare.distill.106", [&] { static_cast<void>(batch.labels()); }));
  CHECK(raises("pare.distill.104", [&] { static_cast<void>(batch.student.output()); }));
  CHECK(raises("pare.distill.105", [&] { static_cast<void>(batch.teacher.feature("layer3")); }));
  batch.targets = torch::ones({2}, torch::kLong);
  CHECK(batch.labels().size(0) == 2);
  batch.student.outputs = {torch::randn({2, 3})};
  batch.teacher.outputs = {torch::randn({2, 4})};
  try {
    static_cast<void>(pare::KnowledgeDistillation{}(batch));
    FAIL("outputs of different shapes were compared");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.distill.104");
    CHECK(std::string(error.what()).find("2, 3") != std::string::npos);
    CHECK(std::string(error.what()).find("2, 4") != std::string::npos);
  }
  // A training without labels whose loss wants them: nothing has moved.
  const auto model = make_bert(16, 2, 4);
  const auto data = sentences(16);
  const auto before = model.run({data.ids, data.mask})[0].detach();
  const pare::Distiller unlabelled{.teacher = make_bert(16, 2, 5),
                                   .loss = pare::HardTargets{},
                                   .training = pare::TrainingData::shuffled({data.ids, data.mask}, 8)};
  CHECK(raises("pare.distill.106", [&] { static_cast<void>(pare::apply(unlabelled, model)); }));
  CHECK(torch::equal(model.run({data.ids, data.mask})[0], before));
}

TEST_CASE("training options are checked one by one, and the bad one is named", "[fit]") {
  CHECK_NOTHROW(pare::FitOptions{}.validate());
  const double infinite = std::numeric_limits<double>::infinity(), none = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::pair<std::string, pare::FitOptions>> bad{{"epochs", {.epochs = -1}},
                                                                  {"steps", {.steps = -1}},
                                                                  {"rate", {.rate = 0}},
                                                                  {"rate", {.rate = none}},
                                                                  {"weight_decay", {.weight_decay = -0.1}},
                                                                  {"momentum", {.momentum = 1.0}},
                                                                  {"warm_up", {.warm_up = {1.5}}},
                                                                  {"clip", {.clip = -1}},
                                                                  {"clip", {.clip = none}},
                                                                  {"rate", {.rate = infinite}},
                                                                  {"accumulate", {.accumulate = 0}},
                                                                  {"patience", {.patience = -1}},
                                                                  {"checkpoint_every", {.checkpoint_every = 0}}};
  for (const auto& [name, options] : bad) {
    INFO(name);
    try {
      options.validate();
      FAIL("accepted");
    } catch (const pare::Error& error) {
      CHECK(error.id() == "pare.distill.120");
      CHECK(error.path() == name);
    }
  }
  // A pass with bad options is refused when it is made part of a pipeline, before any training.
  const auto model = make_bert(16, 2, 6);
  const pare::Distiller tutor{.teacher = model, .fit = {.accumulate = -3}};
  CHECK(raises("pare.distill.120", [&] { tutor.validate(); }));
}
