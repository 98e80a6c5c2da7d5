#include "pare/distill/fit.hpp"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "pare/capture/capture.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/distill/distillation.hpp"
#include "pare/distill/hints.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;

struct FittedNetImpl : nn::Module {
  explicit FittedNetImpl(int64_t width)
      : first(register_module("first", nn::Linear(6, width))),
        norm(register_module("norm", nn::BatchNorm1d(width))),
        drop(register_module("drop", nn::Dropout(0.2))),
        last(register_module("last", nn::Linear(width, 3))) {}
  torch::Tensor forward(const torch::Tensor& x) { return last(drop(torch::relu(norm(first(x))))); }
  nn::Linear first;
  nn::BatchNorm1d norm;
  nn::Dropout drop;
  nn::Linear last;
};
TORCH_MODULE(FittedNet);

struct Data {
  torch::Tensor x, y;
};

Data make_data(int64_t rows = 64) {
  torch::manual_seed(3);
  auto x = torch::randn({rows, 6});
  auto y = x.narrow(1, 0, 3).argmax(1);
  return {x, y};
}

pare::Model make_model(int64_t width = 8, uint64_t seed = 1) {
  torch::manual_seed(seed);
  FittedNet net(width);
  auto model = pare::capture(net, torch::randn({2, 6}));
  model.detach_weights();
  return model;
}

pare::StepLoss cross_entropy(pare::Model& model) {
  return [&model](const pare::Batch& batch) { return at::cross_entropy_loss(model(batch[0]), batch[1]); };
}

bool equal(const pare::Model& a, const pare::Model& b) {
  for (const auto& [path, weight] : a.weights())
    if (!torch::equal(weight.tensor, b.weight(path))) {
      UNSCOPED_INFO(path << " differs");
      return false;
    }
  return true;
}

// A fresh path that is gone again afterwards.
struct Path {
  explicit Path(const std::string& name) : text((std::filesystem::temp_directory_path() / name).string()) {
    std::filesystem::remove(text);
  }
  ~Path() { std::filesystem::remove(text); }
  std::string text;
};

struct Killed {};

// Noise drawn from LibTorch's random state as each batch is made, and an order drawn as each epoch starts.
pare::TrainingData noisy(const Data& data, int64_t die_at, int64_t& read) {
  return pare::TrainingData([data, die_at, &read](std::int64_t) {
    const auto order = torch::randperm(data.x.size(0));
    return pare::Batches(
        [=, &read](std::size_t i) -> std::optional<pare::Batch> {
          if (read++ == die_at) throw Killed();
          const auto index = order.narrow(0, static_cast<int64_t>(i) * 8, 8);
          const auto x = data.x.index_select(0, index);
          return pare::Batch{x + 0.1 * torch::randn_like(x), data.y.index_select(0, index)};
        },
        8);
  });
}

double accuracy(const pare::Model& model, const Data& data) {
  return model(data.x).argmax(1).eq(data.y).to(torch::kDouble).mean().item<double>();
}

// 2000 steps with everything that has a state: dropout, batch norm, projectors, moments, judgements.
pare::FitResult train(pare::Model& model, const pare::Model& teacher, pare::FitOptions options, const Data& data,
                      int64_t die_at) {
  pare::Distillation distillation(model, teacher, {data.x},
                                  pare::KnowledgeDistillation{} + pare::Hints{{"norm", "norm"}});
  int64_t read = 0;
  options.epochs = 250;
  options.checkpoint_every = 37;
  options.judge = [&](const pare::Model& judged) { return accuracy(judged, data); };
  return pare::fit(
      model, noisy(data, die_at, read),
      [&](const pare::Batch& batch) { return distillation.step({batch[0]}, batch[1]); }, options,
      distillation.parameters());
}

}  // namespace

TEST_CASE("a killed training resumes and ends bit for bit where it would have ended", "[fit]") {
  using Optimizer = pare::FitOptions::Optimizer;
  const auto data = make_data();
  const auto teacher = make_model(12, 2);
  for (const auto optimizer : {Optimizer::AdamW, Optimizer::Sgd}) {
    const pare::FitOptions options{.optimizer = optimizer, .rate = 3e-3, .seed = 5};
    auto straight = make_model();
    const auto expected = train(straight, teacher, options, data, -1);
    CHECK(expected.steps == 2000);
    CHECK_FALSE(expected.resumed);
    CHECK_FALSE(equal(straight, make_model()));

    const Path path("pare_fit_resume.train");
    auto resuming = options;
    resuming.checkpoint = path.text;
    pare::FitResult result;
    int parts = 0;
    for (const int64_t die_at : {20, 333, 500, 8, 2, 700, -1}) {
      auto model = make_model();  // a process of its own has nothing but the file
      torch::manual_seed(1000 + die_at);
      try {
        result = train(model, teacher, resuming, data, die_at);
        CHECK(die_at == -1);
        CHECK(equal(model, straight));
      } catch (const Killed&) {
        ++parts;
      }
    }
    CHECK(parts == 6);
    CHECK(result.resumed);
    CHECK(result.steps == expected.steps);
    CHECK(result.first_loss == expected.first_loss);
    CHECK(result.last_loss == expected.last_loss);
    CHECK(result.best == expected.best);
    // Once it is over, the same call gives the same Model again.
    auto again = make_model();
    CHECK(train(again, teacher, resuming, data, 0).steps == 2000);
    CHECK(equal(again, straight));
    // A file cut short, and one of another training.
    auto other = resuming;
    other.rate = 1e-2;
    CHECK(raises("pare.distill.132", [&] { train(again, teacher, other, data, -1); }));
    auto wider = make_model(16);
    CHECK(raises("pare.distill.132", [&] { train(wider, teacher, resuming, data, -1); }));
    std::filesystem::resize_file(path.text, std::filesystem::file_size(path.text) / 2);
    CHECK(raises("pare.checkpoint.107", [&] { train(again, teacher, resuming, data, -1); }));
    CHECK(equal(again, straight));
    pare::save_safetensors(path.text, {{"a", torch::ones({1})}});
    CHECK(raises("pare.distill.133", [&] { train(again, teacher, resuming, data, -1); }));
  }
}

TEST_CASE("training stops at a loss that is not finite and restores the last good state", "[fit]") {
  const auto data = make_data();
  auto model = make_model();
  std::vector<pare::Batch> batches;
  for (int64_t i = 0; i < 8; ++i) batches.push_back({data.x.narrow(0, 8 * i, 8).clone(), data.y.narrow(0, 8 * i, 8)});
  auto half = make_model();
  pare::fit(half, pare::Batches(std::vector<pare::Batch>(batches)), cross_entropy(half),
            {.epochs = 1, .decay = pare::FitOptions::Decay::Constant, .warm_up = {0.0}});
  // The sixth batch turns bad in the second epoch.
  const pare::TrainingData turning([&](std::int64_t epoch) {
    auto now = batches;
    if (epoch == 1) now[5][0] = torch::full_like(now[5][0], std::numeric_limits<float>::infinity());
    return pare::Batches(std::move(now));
  });
  try {
    pare::fit(model, turning, cross_entropy(model),
              {.epochs = 3, .decay = pare::FitOptions::Decay::Constant, .warm_up = {0.0}});
    FAIL("a loss that is not a number was trained on");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.distill.131");
    CHECK(std::string(error.what()).find("batch 5 of epoch 1") != std::string::npos);
  }
  CHECK_FALSE(model.is_training());
  // As it was after the first epoch.
  CHECK(equal(model, half));
  // A loss that is finite with gradients that are not.
  auto steep = make_model();
  const auto expected = steep.weight("first.weight").detach().clone();
  CHECK(raises("pare.distill.131", [&] {
    pare::fit(steep, pare::Batches(std::vector<pare::Batch>(batches)),
              [&](const pare::Batch& batch) { return (steep(batch[0]) * 0).sqrt().sum(); });
  }));
  CHECK(torch::equal(steep.weight("first.weight"), expected));
}

TEST_CASE("accumulated batches make the step of one large batch", "[fit]") {
  const auto data = make_data();
  const pare::FitOptions base{
      .epochs = 3, .optimizer = pare::FitOptions::Optimizer::Sgd, .rate = 0.1, .batch_statistics = false};
  const auto run = [&](int64_t batch, int64_t accumulate) {
    auto model = make_model();
    std::vector<pare::Batch> batches;
    for (int64_t i = 0; i < 64; i += batch) batches.push_back({data.x.narrow(0, i, batch), data.y.narrow(0, i, batch)});
    auto options = base;
    options.accumulate = accumulate;
    const auto result = pare::fit(model, pare::Batches(std::move(batches)), cross_entropy(model), options);
    CHECK(result.steps == 3 * 2);
    return model;
  };
  const auto whole = run(32, 1), parts = run(8, 4);
  CHECK(torch::allclose(whole.weight("last.weight"), parts.weight("last.weight"), 1e-4, 1e-6));
}

TEST_CASE("training learns, in bf16 too, stops early and keeps the best", "[fit]") {
  const auto data = make_data(256);
  for (const bool mixed : {false, true}) {
    auto model = make_model();
    const auto result = pare::fit(model, pare::TrainingData::shuffled({data.x, data.y}, 32), cross_entropy(model),
                                  {.epochs = 30, .rate = 1e-2, .mixed = mixed});
    CHECK(result.last_loss < 0.7 * result.first_loss);
    CHECK(accuracy(model, data) > 0.8);
    CHECK(model.weight("first.weight").scalar_type() == torch::kFloat);
    CHECK_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
  }
  auto model = make_model();
  std::vector<torch::Tensor> judged;
  const auto result = pare::fit(model, pare::TrainingData::shuffled({data.x, data.y}, 32), cross_entropy(model),
                                {.epochs = 20,
                                 .judge =
                                     [&](const pare::Model& now) {
                                       judged.push_back(now.weight("last.weight").detach().clone());
                                       return judged.size() == 2 ? 1.0 : 0.0;
                                     },
                                 .patience = 3});
  CHECK(result.stopped_early);
  CHECK(result.epochs == 5);
  CHECK(result.best_epoch == 2);
  CHECK(torch::equal(model.weight("last.weight"), judged[1]));
}

TEST_CASE("zeros stay zero, frozen stays frozen, randomness stays the caller's", "[fit]") {
  const auto data = make_data();
  auto model = make_model();
  {
    const torch::NoGradGuard no_grad;
    auto weight = model.weight("first.weight");
    weight.mul_(torch::randn_like(weight).gt(0));
  }
  const auto zeros = model.weight("first.weight").eq(0);
  auto bias = model.weight("last.bias");
  bias.requires_grad_(false);
  const auto expected = bias.clone();
  torch::manual_seed(77);
  const auto first = torch::rand({3});
  torch::manual_seed(77);
  pare::fit(model, pare::TrainingData::shuffled({data.x, data.y}, 16), cross_entropy(model), {.keep_zeros = true});
  CHECK(torch::equal(torch::rand({3}), first));
  CHECK(torch::equal(model.weight("first.weight").eq(0), zeros));
  CHECK(torch::equal(model.weight("last.bias"), expected));
}

TEST_CASE("training refuses bad options and no data", "[fit]") {
  auto model = make_model();
  const auto data = make_data();
  const auto attempt = [&](const pare::FitOptions& options) {
    pare::fit(model, pare::TrainingData::shuffled({data.x, data.y}, 16), cross_entropy(model), options);
  };
  CHECK(raises("pare.distill.120", [&] { attempt({.epochs = 0}); }));
  CHECK(raises("pare.distill.120", [&] { attempt({.rate = std::numeric_limits<double>::infinity()}); }));
  CHECK(raises("pare.distill.120", [&] { attempt({.accumulate = 0}); }));
  CHECK(raises("pare.distill.122", [&] { pare::fit(model, {}, cross_entropy(model)); }));
  CHECK(raises("pare.distill.121", [&] { pare::TrainingData::shuffled({data.x, data.y.narrow(0, 0, 5)}, 4); }));
  CHECK(raises("pare.distill.121", [&] { pare::TrainingData::shuffled({data.x}, 65); }));
  for (auto& parameter : model.parameters()) parameter.requires_grad_(false);
  CHECK(raises("pare.distill.123", [&] { attempt({}); }));
}
