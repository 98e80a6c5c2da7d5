// Trainings that end early: the Model is at its last good state, in the mode that it was in.
#include <torch/torch.h>

#include <limits>
#include <stdexcept>

#include "pare/capture/capture.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/distill/distiller.hpp"
#include "pare/distill/fit.hpp"
#include "pare/pass/apply.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

namespace nn = torch::nn;
using torch::Tensor;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct BrittleNetImpl : nn::Module {
  BrittleNetImpl()
      : first(register_module("first", nn::Linear(6, 8))),
        norm(register_module("norm", nn::BatchNorm1d(8))),
        last(register_module("last", nn::Linear(8, 3))) {}
  Tensor forward(const Tensor& x) { return last(torch::relu(norm(first(x)))); }
  nn::Linear first;
  nn::BatchNorm1d norm;
  nn::Linear last;
};
TORCH_MODULE(BrittleNet);

// A Model, five batches for it, and what was in it.
struct Brittle {
  Brittle() {
    torch::manual_seed(1);
    BrittleNet net;
    model = pare::capture(net, torch::randn({2, 6}));
    model.detach_weights();
    for (int i = 0; i < 5; ++i) batches.push_back({torch::randn({8, 6}), torch::randint(0, 3, {8})});
    remember();
  }
  void remember() {
    before.clear();
    for (const auto& [path, weight] : model.weights()) before[path] = weight.tensor.detach().clone();
  }
  [[nodiscard]] bool is_untouched() const {
    for (const auto& [path, tensor] : before)
      if (!torch::equal(tensor, model.weight(path))) {
        UNSCOPED_INFO(path << " differs");
        return false;
      }
    return true;
  }
  [[nodiscard]] pare::StepLoss loss() {
    return [this](const pare::Batch& batch) { return at::cross_entropy_loss(model(batch[0]), batch[1]); };
  }
  [[nodiscard]] pare::TrainingData data() const { return pare::Batches(batches); }
  pare::Model model;
  std::vector<pare::Batch> batches;
  std::map<std::string, Tensor> before;
};

template <class Call>
bool throws_mine(Call&& call) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    return std::string(error.what()) == "mine";
  }
  return false;
}

[[noreturn]] void throw_mine() { throw std::runtime_error("mine"); }

}  // namespace

TEST_CASE("a training that the caller's own code stops leaves the Model as it was", "[fit]") {
  for (const bool training : {false, true}) {
    Brittle brittle;
    auto& model = brittle.model;
    model.train(training);
    const auto is_as_before = [&] { return brittle.is_untouched() && model.is_training() == training; };
    const auto loss = brittle.loss();
    std::int64_t calls = 0;
    const auto learned = torch::ones({}).requires_grad_(true);
    CHECK(throws_mine([&] {
      const auto failing = [&](const pare::Batch& batch) {
        if (calls++ == 3) throw_mine();
        return loss(batch) * learned;
      };
      pare::fit(model, brittle.data(), failing, {}, {learned});
    }));
    CHECK(is_as_before());
    CHECK(learned.item<double>() == 1.0);  // what a loss learns goes back along with the Model
    const auto loader = [&](std::size_t i) -> std::optional<pare::Batch> {
      if (i == 3) throw_mine();
      return brittle.batches.at(i);
    };
    CHECK(throws_mine([&] { pare::fit(model, pare::Batches(loader, 5), loss); }));
    CHECK(is_as_before());
    CHECK(throws_mine([&] {
      pare::fit(model, brittle.data(), loss, {.judge = [](const pare::Model&) -> double { throw_mine(); }});
    }));
    CHECK(is_as_before());
    auto wrong = brittle.batches;
    wrong[3][0] = torch::randn({8, 7});
    CHECK(raises("pare.run.103", [&] { pare::fit(model, pare::Batches(wrong), loss); }));
    CHECK(is_as_before());
    wrong[3][0] = torch::full({8, 6}, kInfinity);
    CHECK(raises("pare.distill.131", [&] { pare::fit(model, pare::Batches(wrong), loss); }));
    CHECK(is_as_before());
  }
}

TEST_CASE("a training that fails later goes back to the best epoch, or to the last", "[fit]") {
  Brittle judged;
  int judgements = 0;
  const auto judge = [&](const pare::Model&) {
    if (++judgements == 3) throw_mine();
    if (judgements == 1) judged.remember();
    return 1.0 / judgements;  // the first is the best
  };
  CHECK(throws_mine([&] { pare::fit(judged.model, judged.data(), judged.loss(), {.epochs = 4, .judge = judge}); }));
  CHECK(judgements == 3);
  CHECK(judged.is_untouched());

  Brittle plain, expected;
  const pare::FitOptions two{.epochs = 2, .decay = pare::FitOptions::Decay::Constant, .warm_up = {0.0}};
  pare::fit(expected.model, expected.data(), expected.loss(), two);
  auto four = two;
  four.epochs = 4;
  int calls = 0;
  const auto failing = [&, loss = plain.loss()](const pare::Batch& batch) {
    if (calls++ == 13) throw_mine();
    return loss(batch);
  };
  CHECK(throws_mine([&] { pare::fit(plain.model, plain.data(), failing, four); }));
  expected.remember();
  plain.before = expected.before;
  CHECK(plain.is_untouched());
}

TEST_CASE("a checkpoint that cannot be written is known before the first step", "[fit]") {
  Brittle brittle;
  const ScratchFolder folder;
  std::int64_t steps = 0;
  const auto counted = [&, loss = brittle.loss()](const pare::Batch& batch) {
    ++steps;
    return loss(batch);
  };
  for (const auto& path : {folder.file("missing/x.train"), folder.file("") + "/"}) {
    INFO(path);
    CHECK_THROWS_AS(pare::fit(brittle.model, brittle.data(), counted, {.checkpoint = path}), pare::Error);
    CHECK(steps == 0);
    CHECK(brittle.is_untouched());
  }
  CHECK(raises("pare.checkpoint.121", [&] {
    pare::fit(brittle.model, brittle.data(), counted, {.checkpoint = folder.file("missing/x.train")});
  }));
  const auto result = pare::fit(brittle.model, brittle.data(), counted, {.checkpoint = folder.file("x.train")});
  CHECK(result.steps == 15);
  CHECK(folder.count() == 1);
}

TEST_CASE("a judgement must be a finite number", "[fit]") {
  Brittle brittle;
  for (const double judgement : {kNan, kInfinity, -kInfinity}) {
    CHECK(raises("pare.distill.124", [&] {
      pare::fit(brittle.model, brittle.data(), brittle.loss(),
                {.judge = [&](const pare::Model&) { return judgement; }});
    }));
    CHECK(brittle.is_untouched());
  }
}

TEST_CASE("an epoch without a batch is no epoch", "[fit]") {
  Brittle brittle;
  const pare::TrainingData once(
      [&](std::int64_t epoch) { return epoch == 0 ? pare::Batches(brittle.batches) : pare::Batches(); });
  CHECK(raises("pare.distill.122", [&] { pare::fit(brittle.model, once, brittle.loss()); }));
  CHECK(pare::fit(brittle.model, once, brittle.loss(), {.epochs = 1}).steps == 5);
  // A source that is exhausted by the first reading, which counts the steps of the schedule.
  brittle.remember();
  std::size_t read = 0;
  const auto stream = pare::Batches::from([&] {
    return [&]() -> std::optional<pare::Batch> {
      if (read >= brittle.batches.size()) return std::nullopt;
      return brittle.batches[read++];
    };
  });
  CHECK(raises("pare.distill.122", [&] { pare::fit(brittle.model, stream, brittle.loss()); }));
  CHECK(brittle.is_untouched());
}

TEST_CASE("a loss that nothing can be learned from is refused", "[fit]") {
  Brittle brittle;
  const auto fitted = [&](const pare::StepLoss& loss) { pare::fit(brittle.model, brittle.data(), loss); };
  CHECK(raises("pare.distill.125", [&] { fitted([](const pare::Batch&) { return Tensor(); }); }));
  CHECK(raises("pare.distill.125", [&] { fitted([&](const pare::Batch& b) { return brittle.model(b[0]); }); }));
  CHECK(raises("pare.distill.125", [&] { fitted([](const pare::Batch&) { return torch::ones({}); }); }));
  CHECK(raises("pare.distill.125", [&] { fitted([](const pare::Batch&) { return torch::ones({}, at::kLong); }); }));
  CHECK(brittle.is_untouched());
}

TEST_CASE("a step that goes beyond what half precision holds is not kept", "[fit]") {
  torch::manual_seed(2);
  auto net = nn::Sequential(nn::Linear(6, 8), nn::Linear(8, 3));
  net->eval();
  net->to(torch::kHalf);
  const auto x = torch::randn({8, 6}).to(torch::kHalf);
  const auto model = pare::capture(net, x);
  auto trained = model;
  trained.detach_weights();
  // AdamW's epsilon is 0 in half precision, so that a gradient of 0 makes a step of 0 / 0.
  const auto loss = [&](const pare::Batch& batch) { return trained(batch[0]).to(torch::kFloat).relu().sum() * 1e-6; };
  CHECK(raises("pare.distill.131", [&] { pare::fit(trained, pare::Batches{x}, loss, {.epochs = 1}); }));
  CHECK(torch::equal(trained(x), model(x)));
  // At a checkpoint inside of an epoch too: what is kept there is good.
  const ScratchFolder folder;
  std::int64_t calls = 0;
  const auto counted = [&](const pare::Batch& batch) {
    ++calls;
    return loss(batch);
  };
  const auto file = folder.file("x.train");
  CHECK(raises("pare.distill.131", [&] {
    pare::fit(trained, pare::Batches{x, x, x}, counted, {.epochs = 1, .checkpoint = file, .checkpoint_every = 1});
  }));
  CHECK(calls == 1);
  CHECK(folder.count() == 0);
  CHECK(torch::equal(trained(x), model(x)));
  const pare::Distiller tutor{.teacher = model, .training = pare::Batches{x}, .fit = {.epochs = 1}};
  CHECK(raises("pare.distill.131", [&] { static_cast<void>(pare::apply(tutor, model)); }));
  CHECK(model(x).isfinite().all().item<bool>());
  // Numbers that were never finite, as a mask may have, are no failure.
  Brittle brittle;
  brittle.model.set_weight("norm.running_mean", torch::full({8}, -kInfinity));
  const auto masked = [&](const pare::Batch& batch) {
    return brittle.model.weight("last.weight").square().sum() + batch[0].sum();
  };
  CHECK(pare::fit(brittle.model, brittle.data(), masked, {.epochs = 1}).steps == 5);
}
