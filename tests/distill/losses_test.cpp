#include <fmt/format.h>
#include <torch/torch.h>

#include <limits>

#include "pare/distill/any_distillation_loss.hpp"
#include "pare/distill/attention_transfer.hpp"
#include "pare/distill/contrastive_distillation.hpp"
#include "pare/distill/decoupled_knowledge_distillation.hpp"
#include "pare/distill/hard_targets.hpp"
#include "pare/distill/hints.hpp"
#include "pare/distill/knowledge_distillation.hpp"
#include "pare/distill/mini_lm.hpp"
#include "pare/distill/relational_distillation.hpp"
#include "pare/distill/tiny_bert.hpp"
#include "pare/numerics/divergence.hpp"
#include "pare/numerics/relations.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace F = torch::nn::functional;

double number(const torch::Tensor& tensor) { return tensor.item<double>(); }

pare::DistillationBatch logits(const torch::Tensor& student, const torch::Tensor& teacher) {
  pare::DistillationBatch batch;
  batch.student.outputs = {student};
  batch.teacher.outputs = {teacher};
  return batch;
}

pare::DistillationBatch features(const torch::Tensor& student, const torch::Tensor& teacher) {
  pare::DistillationBatch batch;
  batch.student.features["s"] = student;
  batch.teacher.features["t"] = teacher;
  return batch;
}

// Prepares a loss as a training does and gives it back.
template <class Loss>
Loss prepared(Loss loss, const pare::DistillationBatch& batch) {
  pare::FeatureRequest request;
  loss.request(request);
  loss.prepare(batch);
  return loss;
}

// Gradients reach the student's side, and the teacher's stays out.
template <class Loss>
void check_gradients(const Loss& loss, pare::DistillationBatch batch) {
  std::vector<torch::Tensor> own;
  for (auto& tensor : batch.student.outputs) own.push_back(tensor = tensor.detach().requires_grad_(true));
  for (auto& [path, tensor] : batch.student.features) own.push_back(tensor = tensor.detach().requires_grad_(true));
  const auto value = loss(batch);
  CHECK(value.dim() == 0);
  value.backward();
  for (const auto& tensor : own) {
    REQUIRE(tensor.grad().defined());
    CHECK(tensor.grad().isfinite().all().template item<bool>());
    CHECK(number(tensor.grad().abs().sum()) > 0);
  }
}

struct CosineLogits {
  at::Tensor operator()(const pare::DistillationBatch& batch) const {
    return 1 - at::cosine_similarity(batch.student.output(), batch.teacher.output()).mean();
  }
};

}  // namespace

TEST_CASE("softened answers follow Hinton's formula", "[distill]") {
  torch::manual_seed(1);
  const auto s = torch::randn({6, 5}), t = torch::randn({6, 5});
  const auto p = torch::softmax(t / 3.0, 1), q = torch::softmax(s / 3.0, 1);
  const auto direct = 9.0 * (p * (p.log() - q.log())).sum() / 6;
  const pare::KnowledgeDistillation loss{.temperature = 3.0};
  CHECK(number(loss(logits(s, t))) == Approx(number(direct)).epsilon(1e-5));
  CHECK(number(loss(logits(t, t))) == Approx(0).margin(1e-6));
  check_gradients(loss, logits(s, t));
  // Maps: classes along axis 1, averaged over the positions.
  const auto maps = torch::randn({2, 5, 3, 3}), others = torch::randn({2, 5, 3, 3});
  const auto rows = [](const torch::Tensor& x) { return x.permute({0, 2, 3, 1}).reshape({18, 5}); };
  CHECK(number(loss(logits(maps, others))) == Approx(number(loss(logits(rows(maps), rows(others))))).epsilon(1e-5));
  CHECK(raises("pare.distill.104", [&] { loss(logits(s, torch::randn({6, 4}))); }));
  CHECK(raises("pare.numerics.126", [&] { pare::KnowledgeDistillation{.temperature = 0}(logits(s, t)); }));
}

TEST_CASE("the decoupled parts add up to the whole", "[distill]") {
  torch::manual_seed(2);
  const auto s = torch::randn({8, 6}), t = torch::randn({8, 6});
  const auto y = torch::randint(6, {8});
  double whole = 0;
  for (int i = 0; i < 8; ++i) {
    const auto row = [&](const torch::Tensor& x) { return x.narrow(0, i, 1); };
    const double others = 1 - number(torch::softmax(t[i] / 2.0, 0)[y[i].item<int64_t>()]);
    whole = number(pare::decoupled_divergence(row(s), row(t), y.narrow(0, i, 1), 1.0, others, 2.0));
    CHECK(whole == Approx(number(pare::softened_divergence(row(s), row(t), 2.0))).epsilon(1e-4));
  }
  auto batch = logits(s, t);
  const pare::DecoupledKnowledgeDistillation loss;
  const auto unlabelled = number(loss(batch));
  batch.targets = t.argmax(1);
  CHECK(number(loss(batch)) == Approx(unlabelled));
  check_gradients(loss, batch);
  CHECK(number(loss(logits(t, t))) == Approx(0).margin(1e-5));
}

TEST_CASE("labels want labels", "[distill]") {
  torch::manual_seed(3);
  auto batch = logits(torch::randn({4, 3}), torch::randn({4, 3}));
  CHECK(raises("pare.distill.106", [&] { pare::HardTargets{}(batch); }));
  batch.targets = torch::tensor({0, 2, 1, 1});
  CHECK(number(pare::HardTargets{}(batch)) == Approx(number(F::cross_entropy(batch.student.output(), batch.targets))));
  check_gradients(pare::HardTargets{.smoothing = 0.1}, batch);
}

TEST_CASE("hints learn a projector where widths differ", "[distill]") {
  torch::manual_seed(4);
  const auto teacher = torch::randn({16, 6, 4, 4});
  const auto mixing = torch::randn({6, 3});
  const auto narrow = torch::randn({16, 3, 8, 8});
  auto same = prepared(pare::Hints{{"s", "t"}}, features(teacher + 1, teacher));
  CHECK(same.parameters().empty());
  CHECK(number(same(features(teacher + 1, teacher))) == Approx(1.0));
  same.normalize = true;
  CHECK(number(same(features(teacher + 1, teacher))) == Approx(1.0 / number(teacher.var(false))).epsilon(1e-4));

  // What a projector can learn, it learns: the teacher is a linear map of the student, averaged down.
  const auto wanted = torch::matmul(mixing, torch::adaptive_avg_pool2d(narrow, {4, 4}).flatten(2)).view({16, 6, 4, 4});
  auto hints = prepared(pare::Hints{{"s", "t"}}, features(narrow, wanted));
  REQUIRE(hints.parameters().size() == 1);
  CHECK(hints.parameters()[0].sizes() == at::IntArrayRef({6, 3}));
  torch::optim::Adam optimizer(hints.parameters(), torch::optim::AdamOptions(0.1));
  for (int i = 0; i < 150; ++i) {
    optimizer.zero_grad();
    hints(features(narrow, wanted)).backward();
    optimizer.step();
  }
  CHECK(number(hints(features(narrow, wanted))) < 1e-3 * number(wanted.var()));
  CHECK(torch::allclose(hints.parameters()[0], mixing, 0.05, 0.05));
  check_gradients(hints, features(narrow, wanted));
  // Tokens by a linear layer; a different number of tokens has no answer.
  const auto tokens = torch::randn({2, 5, 4});
  check_gradients(prepared(pare::Hints{{"s", "t"}}, features(tokens, torch::randn({2, 5, 8}))),
                  features(tokens, torch::randn({2, 5, 8})));
  CHECK(raises("pare.distill.104", [&] {
    prepared(pare::Hints{{"s", "t"}}, features(tokens, torch::randn({2, 6, 4})));
  }));
  CHECK(raises("pare.distill.101", [&] { pare::Hints{}(features(tokens, tokens)); }));
}

TEST_CASE("attention transfer sees positions and no channels", "[distill]") {
  torch::manual_seed(5);
  const auto s = torch::randn({4, 3, 5, 5}), t = torch::randn({4, 7, 5, 5});
  const pare::AttentionTransfer loss{{"s", "t"}};
  const auto map = [](const torch::Tensor& f) { return F::normalize(f.pow(2).mean(1).flatten(1)); };
  CHECK(number(loss(features(s, t))) == Approx(number((map(s) - map(t)).pow(2).sum(1).mean())).epsilon(1e-4));
  CHECK(number(loss(features(s, 3 * s.flip(1)))) == Approx(0).margin(1e-6));
  check_gradients(loss, features(s, t));
  CHECK(raises("pare.distill.104", [&] { loss(features(torch::randn({4, 3}), torch::randn({4, 3}))); }));
}

TEST_CASE("relations are blind to rotation and scale", "[distill]") {
  torch::manual_seed(6);
  const auto t = torch::randn({9, 5});
  const auto rotation = std::get<0>(torch::linalg_qr(torch::randn({5, 5})));
  const pare::RelationalDistillation loss;
  CHECK(number(loss(logits(2.5 * t.matmul(rotation) + 1, t))) == Approx(0).margin(1e-4));
  const auto s = torch::randn({9, 3});
  CHECK(number(loss(logits(s, t))) > 0.01);
  check_gradients(loss, logits(s, t));
  const auto distances = torch::cdist(s, s);
  CHECK(torch::allclose(pare::distance_relation(s), distances / (distances.sum() / (9 * 8)), 1e-3, 1e-4));
  const auto e = torch::nn::functional::normalize(s[1] - s[0], F::NormalizeFuncOptions().dim(0));
  const auto g = torch::nn::functional::normalize(s[2] - s[0], F::NormalizeFuncOptions().dim(0));
  CHECK(number(pare::angle_relation(s)[0][1][2]) == Approx(number((e * g).sum())).margin(1e-5));
}

TEST_CASE("contrast finds each sample's partner", "[distill]") {
  torch::manual_seed(7);
  const auto a = torch::randn({32, 12});
  CHECK(number(pare::contrastive_divergence(a, a, 0.01)) < 0.01);
  const auto alike = torch::ones({32, 12});
  CHECK(number(pare::contrastive_divergence(alike, 2 * alike, 0.1)) == Approx(std::log(32.0)));
  const auto twins = torch::cat({a.narrow(0, 0, 4), a.narrow(0, 0, 4)});
  const auto labels = torch::arange(4).repeat({2});
  CHECK(number(pare::contrastive_divergence(twins, twins, 0.01)) == Approx(std::log(2.0)).epsilon(0.01));
  CHECK(number(pare::contrastive_divergence(twins, twins, 0.01, labels)) < 0.01);
  const auto student = torch::randn({32, 6, 4, 4});
  auto loss = prepared(pare::ContrastiveDistillation{.layers = {"s", "t"}, .width = 16}, features(student, a.clone()));
  CHECK(loss.parameters().size() == 2);
  check_gradients(loss, features(student, a));
}

TEST_CASE("transformer losses look at tokens and not at padding", "[distill]") {
  torch::manual_seed(8);
  pare::DistillationBatch batch;
  const auto mask = torch::tensor({{1, 1, 1, 0}, {1, 1, 0, 0}});
  batch.inputs = {mask, mask};
  for (const auto* path : {"", ".q", ".k", ".v"}) {
    batch.student.features[fmt::format("s{}", path)] = torch::randn({2, 4, 8});
    batch.teacher.features[fmt::format("t{}", path)] = torch::randn({2, 4, 8});
  }
  const pare::AttentionPaths paths{.query = "q", .key = "k", .value = "v", .heads = 2, .mask = 1};
  const auto check = [&](auto loss, bool reads_hidden) {
    pare::FeatureRequest request;
    loss.request(request);
    CHECK(request.wanted.size() >= 3);
    loss.prepare(batch);
    const double before = number(loss(batch));
    CHECK(before > 0);
    auto moved = batch;
    for (auto& [path, tensor] : moved.student.features)
      tensor = torch::where(mask.unsqueeze(2).eq(0), torch::full_like(tensor, 100.0), tensor);
    CHECK(number(loss(moved)) == Approx(before).epsilon(1e-4));
    auto equal = batch;
    for (const auto* path : {"", ".q", ".k", ".v"})
      equal.student.features[fmt::format("s{}", path)] = equal.teacher.features[fmt::format("t{}", path)];
    CHECK(number(loss(equal)) == Approx(0).margin(1e-5));
    auto partly = equal;
    partly.student.features["s"] = batch.student.features["s"];
    CHECK((number(loss(partly)) > 1e-3) == reads_hidden);
  };
  check(pare::TinyBert{.layers = {"s", "t"}, .attention = paths}, true);
  check(pare::MiniLm{.layers = {"s", "t"}, .attention = paths}, false);
  CHECK(raises("pare.numerics.105", [&] {
    pare::MiniLm{.layers = {"s", "t"}, .attention = {.query = "q", .key = "k", .value = "v", .heads = 3}}(batch);
  }));
}

TEST_CASE("labels must be classes of the student", "[distill]") {
  torch::manual_seed(12);
  const auto s = torch::randn({6, 4}), t = torch::randn({6, 4});
  const auto y = torch::randint(0, 4, {6});
  auto batch = logits(s, t);
  const auto beyond = y.clone();
  beyond[2] = 4;
  const auto below = y.clone();
  below[5] = -1;
  for (const auto& targets : {beyond, below, torch::rand({6}), y.unsqueeze(1), y.narrow(0, 0, 5), y.eq(1)}) {
    batch.targets = targets;
    CHECK(raises("pare.distill.111", [&] { pare::HardTargets{}(batch); }));
    CHECK(raises("pare.distill.111", [&] { pare::DecoupledKnowledgeDistillation{}(batch); }));
  }
  batch.targets = y;
  const auto hard = number(pare::HardTargets{}(batch));
  const auto decoupled = number(pare::DecoupledKnowledgeDistillation{}(batch));
  batch.targets = y.to(torch::kInt);
  CHECK(number(pare::HardTargets{}(batch)) == hard);
  CHECK(number(pare::DecoupledKnowledgeDistillation{}(batch)) == decoupled);
  batch.targets = torch::one_hot(y, 4).to(torch::kFloat);
  CHECK(number(pare::HardTargets{}(batch)) == Approx(hard));
  // -100 is none of them, as LibTorch has it, and no target that could be told from the others.
  batch.targets = y.clone();
  batch.targets[0] = -100;
  CHECK(number(pare::HardTargets{}(batch)) == Approx(number(F::cross_entropy(s.narrow(0, 1, 5), y.narrow(0, 1, 5)))));
  CHECK(raises("pare.distill.111", [&] { pare::DecoupledKnowledgeDistillation{}(batch); }));
  auto maps = logits(torch::randn({2, 4, 3, 3}), {});
  maps.targets = torch::randint(0, 4, {2, 3, 3});
  CHECK(number(pare::HardTargets{}(maps)) > 0);
  auto vector = logits(torch::randn({4}), torch::randn({4}));
  vector.targets = torch::tensor(1);
  CHECK(raises("pare.distill.104", [&] { pare::HardTargets{}(vector); }));
}

TEST_CASE("settings of losses that cannot be are refused by name", "[distill]") {
  torch::manual_seed(13);
  auto batch = logits(torch::randn({6, 4}), torch::randn({6, 4}));
  batch.targets = torch::randint(0, 4, {6});
  for (const double smoothing : {std::numeric_limits<double>::quiet_NaN(), -0.1, 1.1}) {
    const auto call = [&] { pare::HardTargets{.smoothing = smoothing}(batch); };
    CHECK(raises("pare.distill.112", call));
    CHECK(path_raised(call) == "HardTargets.smoothing");
  }
  CHECK(number(pare::HardTargets{.smoothing = 1.0}(batch)) > 0);
  for (const std::int64_t axis : {2, 5, -3})
    CHECK(raises("pare.distill.112", [&] { pare::KnowledgeDistillation{.class_dim = axis}(batch); }));
  CHECK(number(pare::KnowledgeDistillation{.class_dim = -1}(batch)) ==
        Approx(number(pare::KnowledgeDistillation{}(batch))));
  for (const std::int64_t width : {0, -3})
    CHECK(raises("pare.distill.112", [&] { pare::ContrastiveDistillation{.width = width}.prepare(batch); }));
  CHECK(raises("pare.distill.112", [&] { pare::RelationalDistillation{.distance = 0, .angle = 0}(batch); }));
  CHECK(number(pare::RelationalDistillation{.distance = 0}(batch)) > 0);
}

TEST_CASE("losses compose with weights, one's own among them", "[distill]") {
  torch::manual_seed(9);
  const auto batch = logits(torch::randn({4, 3}), torch::randn({4, 3}));
  const auto kd = number(pare::KnowledgeDistillation{}(batch)), own = number(CosineLogits{}(batch));
  const pare::AnyDistillationLoss sum = 0.5 * pare::KnowledgeDistillation{} + CosineLogits{};
  CHECK(number(sum(batch)) == Approx(0.5 * kd + own));
  const auto twice = 2.0 * (sum + pare::weighted(0.1, CosineLogits{}));
  CHECK(number(twice(batch)) == Approx(kd + 2.2 * own));
  const auto terms = twice.terms(batch);
  REQUIRE(terms.size() == 3);
  CHECK(terms[0].name == "KnowledgeDistillation");
  CHECK(terms[1].name.find("CosineLogits") != std::string::npos);
  // Copies learn apart.
  pare::AnyDistillationLoss hints = pare::Hints{{"s", "t"}};
  const auto copy = hints;
  pare::FeatureRequest request;
  hints.request(request);
  hints.prepare(features(torch::randn({2, 3}), torch::randn({2, 5})));
  CHECK(hints.parameters().size() == 1);
  CHECK(copy.parameters().empty());
}

TEST_CASE("layer maps count what is there", "[distill]") {
  pare::FeatureRequest request;
  request.student_paths = {"enc", "enc.1", "enc.1.fc", "enc.3", "enc.5"};
  for (int i = 0; i < 6; ++i) request.teacher_paths.push_back(fmt::format("enc.{}.fc", i));
  auto uniform = pare::LayerMap::uniform("enc", "enc");
  uniform.request(request);
  CHECK((uniform.pairs() == std::vector<pare::LayerPair>{{"enc.1", "enc.1"}, {"enc.3", "enc.3"}, {"enc.5", "enc.5"}}));
  auto last = pare::LayerMap::last("enc", "enc");
  last.request(request);
  CHECK((last.pairs().front() == pare::LayerPair{"enc.1", "enc.3"}));
  CHECK(pare::LayerMap{"a", "b"}.pairs().size() == 1);
  CHECK((pare::LayerMap{{"a", "b"}, {"c", "d"}}.pairs().size()) == 2);

  // By search: the student's layers are rotations of the teacher's 1, 2 and, as always, last.
  torch::manual_seed(10);
  pare::DistillationBatch batch;
  auto search = pare::LayerMap::search("enc", "enc");
  search.request(request);
  for (int i = 0; i < 6; ++i) batch.teacher.features[fmt::format("enc.{}", i)] = torch::randn({40, 7});
  const auto rotation = std::get<0>(torch::linalg_qr(torch::randn({7, 7})));
  const auto like = [&](int i) { return batch.teacher.features[fmt::format("enc.{}", i)].matmul(rotation); };
  batch.student.features = {{"enc.1", like(1)}, {"enc.3", like(2)}, {"enc.5", like(5)}};
  search.choose(batch);
  CHECK((search.pairs() == std::vector<pare::LayerPair>{{"enc.1", "enc.1"}, {"enc.3", "enc.2"}, {"enc.5", "enc.5"}}));
  CHECK(pare::linear_alignment(like(0), batch.teacher.features["enc.0"]) == Approx(1.0).epsilon(1e-4));

  auto none = pare::LayerMap::uniform("decoder", "enc");
  CHECK(raises("pare.distill.103", [&] { none.request(request); }));
}
