// What a teacher is worth: a small net on Fashion-MNIST trained with labels alone, and from the same start, on the same
// batches, for as many steps, with a teacher's logits, features or relations beside them.
//
//   build/examples/teacher_student $PARE_DATA/fashion_mnist --seeds 3
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cmath>

#include "examples/data/dataset.hpp"
#include "examples/program.hpp"
#include "pare/capture/capture.hpp"
#include "pare/distill/attention_transfer.hpp"
#include "pare/distill/distiller.hpp"
#include "pare/distill/hard_targets.hpp"
#include "pare/distill/hints.hpp"
#include "pare/distill/relational_distillation.hpp"
#include "pare/pass/apply.hpp"

namespace {

namespace nn = torch::nn;

struct Options {
  std::string folder;
  std::int64_t teacher_samples = 20000, samples = 2000;
  std::int64_t width = 16;
  double attention = 1.0, relations = 0.1;
  int teacher_epochs = 4, epochs = 30, seeds = 3;
};

// Two convolutions with batch norms, pooling, a classifier; `width` channels and twice as many.
struct NetImpl : nn::Module {
  explicit NetImpl(std::int64_t width)
      : conv1(register_module("conv1", nn::Conv2d(nn::Conv2dOptions(1, width, 3).stride(2).padding(1)))),
        bn1(register_module("bn1", nn::BatchNorm2d(width))),
        conv2(register_module("conv2", nn::Conv2d(nn::Conv2dOptions(width, 2 * width, 3).stride(2).padding(1)))),
        bn2(register_module("bn2", nn::BatchNorm2d(2 * width))),
        fc(register_module("fc", nn::Linear(2 * width * 16, 10))) {}
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(bn1(conv1(x)));
    y = torch::relu(bn2(conv2(y)));
    return fc(torch::adaptive_avg_pool2d(y, {4, 4}).flatten(1));
  }
  nn::Conv2d conv1;
  nn::BatchNorm2d bn1;
  nn::Conv2d conv2;
  nn::BatchNorm2d bn2;
  nn::Linear fc;
};
TORCH_MODULE(Net);

pare::Model make(std::int64_t width, std::uint64_t seed) {
  torch::manual_seed(seed);
  Net net(width);
  return pare::capture(net, torch::randn({2, 1, 28, 28}));
}

// Trains a copy of `model` with this loss; the teacher of labels alone is the model itself, which nobody asks.
pare::Model train(const pare::Model& model, const pare::Model& teacher, const pare::AnyDistillationLoss& loss,
                  const data::Set& set, int epochs, std::uint64_t seed) {
  const pare::Distiller tutor{.teacher = teacher,
                              .loss = loss,
                              .training = pare::TrainingData::shuffled({set.inputs[0], set.labels}, 64, seed),
                              .fit = {.epochs = epochs, .rate = 3e-3, .seed = seed}};
  return pare::apply(tutor, model).model;
}

double accuracy(const pare::Model& model, const data::Set& test) {
  const auto logits = data::outputs([&](const data::Tensors& inputs) { return model.run(inputs); }, test, 500);
  return data::top1_percent(logits, test.labels);
}

void compare(const Options& options) {
  auto format = data::InputFormat::image(28, {0.5F, 0.5F, 0.5F}, {0.5F, 0.5F, 0.5F});
  format.channels = 1;
  const auto load = [&](const char* name, std::int64_t limit) {
    return data::load(options.folder + "/" + name, format, {.limit = limit});
  };
  const auto all = load("train-images-idx3-ubyte.gz", options.teacher_samples);
  const auto few = load("train-images-idx3-ubyte.gz", options.samples);
  const auto test = load("t10k-images-idx3-ubyte.gz", 10000);
  const pare::HardTargets labels;
  const auto untrained = make(48, 100);
  const auto teacher = train(untrained, untrained, labels, all, options.teacher_epochs, 100);
  fmt::print("teacher, {} samples: {:.2f} %\n", all.size(), accuracy(teacher, test));

  const pare::KnowledgeDistillation logits{.temperature = 4.0};
  const pare::Hints hints{.layers = {"bn2", "bn2"}, .normalize = true};
  const pare::AttentionTransfer attention{.layers = {"bn2", "bn2"}};
  const pare::RelationalDistillation relations{.layers = {"fc", "fc"}};
  const std::vector<std::pair<std::string, pare::AnyDistillationLoss>> rows{
      {"labels alone", labels},
      {"logits", 0.3 * labels + logits},
      {"features", labels + hints},
      {"attention", labels + options.attention * attention},
      {"relations", labels + options.relations * relations}};
  for (const auto& [name, loss] : rows) {
    std::vector<double> reached;
    for (int seed = 0; seed < options.seeds; ++seed)
      reached.push_back(accuracy(train(make(options.width, seed), teacher, loss, few, options.epochs, seed), test));
    const auto values = torch::tensor(reached, torch::kDouble);
    fmt::print("student, {} samples, {:<12}: {:.2f} % +- {:.2f}\n", few.size(), name, values.mean().item<double>(),
               reached.size() > 1 ? values.std().item<double>() : 0.0);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"A student with and without its teacher, at equal steps"};
  Options options;
  app.add_option("folder", options.folder, "Fashion-MNIST")->required();
  app.add_option("--teacher-samples", options.teacher_samples, "Pictures that the teacher is trained on")
      ->check(CLI::Range(64, 60000));
  app.add_option("--samples", options.samples, "Pictures that the students are trained on")
      ->check(CLI::Range(64, 60000));
  app.add_option("--teacher-epochs", options.teacher_epochs, "Epochs of the teacher")->check(CLI::Range(1, 10000));
  app.add_option("--epochs", options.epochs, "Epochs of the students")->check(CLI::Range(1, 10000));
  app.add_option("--width", options.width, "Channels of the students' first layer; the teacher has 48")
      ->check(CLI::Range(1, 1024));
  app.add_option("--attention", options.attention, "Weight of the attention maps")->check(program::within(0, 1e6));
  app.add_option("--relations", options.relations, "Weight of the relations")->check(program::within(0, 1e6));
  app.add_option("--seeds", options.seeds, "Students of each kind")->check(CLI::Range(1, 100));
  return program::run("teacher_student", app, 1, [&] {
    app.parse(argc, argv);
    compare(options);
    return 0;
  });
}
