// A narrow U-Net that finds cell nuclei, trained alone and with a wide one as its teacher: from the same starts, for as
// many steps, in a loop that knows of its teacher by two lines. Masks are drawn by hand, one nucleus after the other,
// so few pictures have them; a teacher can say what it sees in all the others.
//
//   build/examples/nuclei_student $PARE_DATA/dsb2018_nuclei
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <stdexcept>

#include "examples/models/unet.hpp"
#include "examples/nuclei/segmentation.hpp"
#include "examples/program.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/distill/distillation.hpp"

namespace {

struct Options {
  std::string data, weights;
  std::int64_t teacher_width = 16, width = 4, samples = 200, labelled = 20, crop = 64, tests = 60;
  int teacher_epochs = 10, epochs = 30, seeds = 3;
};

nuclei::Forward forward_of(models::UNet& net) {
  return [&net](const torch::Tensor& x) { return net->forward(x); };
}

// What the teacher thinks of each pixel, softened. With one logit a pixel there are no classes to compare.
struct SoftMask {
  double temperature = 2.0;
  at::Tensor operator()(const pare::DistillationBatch& batch) const {
    const auto belief = (batch.teacher.output() / temperature).sigmoid();
    return temperature * temperature *
           at::binary_cross_entropy_with_logits(batch.student.output() / temperature, belief);
  }
};

models::UNet make(std::int64_t width, std::uint64_t seed) {
  torch::manual_seed(seed);
  return models::UNet(1, 1, width, 3);
}

void train(models::UNet& net, const nuclei::Samples& samples, const nuclei::Training& training) {
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(2e-3));
  net->train();
  nuclei::train(forward_of(net), optimizer, samples, training);
  net->eval();
}

models::UNet teacher_of(const Options& options, const nuclei::Samples& samples) {
  auto net = make(options.teacher_width, 0);
  if (!options.weights.empty() && std::filesystem::exists(options.weights)) {
    pare::load_weights(*net, pare::SafeTensors(options.weights));
  } else {
    train(net, samples, {.epochs = options.teacher_epochs});
    if (!options.weights.empty()) pare::save_safetensors(options.weights, pare::named_weights(*net));
  }
  net->eval();
  return net;
}

// All pictures, with the teacher's answers where nobody has drawn a mask.
nuclei::Samples answered(const nuclei::Samples& all, std::int64_t labelled, models::UNet& teacher) {
  const torch::NoGradGuard no_grad;
  auto masks = all.masks.clone();
  for (auto i = labelled; i < all.images.size(0); ++i)
    masks.narrow(0, i, 1).copy_(teacher->forward(all.images.narrow(0, i, 1)).sigmoid());
  return {all.images, masks};
}

double parameters_of(const models::UNet& net) {
  double total = 0;
  for (const auto& parameter : net->parameters()) total += static_cast<double>(parameter.numel());
  return total;
}

void say(const std::string& what, const models::UNet& net, const std::vector<double>& dice) {
  const auto values = torch::tensor(dice, torch::kDouble);
  fmt::print("{:<24} {:>9.0f} {:8.2f} +- {:.2f}\n", what, parameters_of(net), values.mean().item<double>(),
             dice.size() > 1 ? values.std().item<double>() : 0.0);
  std::fflush(stdout);
}

void run(const Options& options) {
  const auto all = nuclei::load(options.data, "train");
  const auto pictures = nuclei::load(options.data, "train", options.samples);
  const auto labelled = std::min(options.labelled, pictures.images.size(0));
  const nuclei::Samples drawn{pictures.images.narrow(0, 0, labelled), pictures.masks.narrow(0, 0, labelled)};
  const auto test = nuclei::load(options.data, "test", options.tests);
  auto teacher = teacher_of(options, all);
  fmt::print("{:<24} {:>9} {:>8}\n", "", "numbers", "Dice");
  say("teacher", teacher, {nuclei::dice(forward_of(teacher), test)});
  const auto answers = answered(pictures, labelled, teacher);
  for (const bool taught : {false, true}) {
    const auto& samples = taught ? answers : drawn;
    std::vector<double> dice;
    for (int seed = 0; seed < options.seeds; ++seed) {
      auto student = make(options.width, seed);
      pare::Distillation distillation(student, teacher, {drawn.images.narrow(0, 0, 2)}, SoftMask{});
      nuclei::Training training{.crop = options.crop};
      const auto epoch_of = [&](const nuclei::Samples& set) {
        return std::max<std::int64_t>(set.images.size(0) / training.batch, 1);
      };
      training.epochs = static_cast<int>(options.epochs * epoch_of(pictures) / epoch_of(samples));
      if (taught)
        training.also = [&](const torch::Tensor& images, const torch::Tensor& logits) {
          return distillation(images, logits);
        };
      torch::manual_seed(100 + seed);  // the pieces
      train(student, samples, training);
      dice.push_back(nuclei::dice(forward_of(student), test));
    }
    say(taught ? "student, taught" : "student, masks alone", make(options.width, 0), dice);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"A narrow U-Net with and without a wide one as its teacher, at equal steps"};
  Options options;
  app.add_option("data", options.data, "dsb2018_nuclei")->required();
  app.add_option("--weights", options.weights, "safetensors of the teacher: read if there, else written")
      ->check(CLI::ExistingFile | program::writable_file());
  app.add_option("--teacher-width", options.teacher_width, "Channels of the teacher's first level")
      ->check(CLI::Range(1, 256));
  app.add_option("--width", options.width, "Channels of the students' first level")->check(CLI::Range(1, 256));
  app.add_option("--samples", options.samples, "Pictures that a taught student sees; the teacher has all, with masks")
      ->check(CLI::Range(8, 1000));
  app.add_option("--labelled", options.labelled, "Those of them that come with a mask")->check(CLI::Range(8, 1000));
  app.add_option("--tests", options.tests, "Test pictures")->check(CLI::Range(1, 1000));
  app.add_option("--crop", options.crop, "Side of the pieces that the students are trained on")
      ->check(CLI::Range(8, 256));
  app.add_option("--teacher-epochs", options.teacher_epochs, "Epochs of the teacher, on pieces of 128 pixels")
      ->check(CLI::Range(1, 10000));
  app.add_option("--epochs", options.epochs, "Epochs of the taught students; the others take as many steps")
      ->check(CLI::Range(1, 10000));
  app.add_option("--seeds", options.seeds, "Students of each kind")->check(CLI::Range(1, 100));
  return program::run("nuclei_student", app, 1, [&] {
    app.parse(argc, argv);
    if (options.crop % 8 != 0)
      throw std::runtime_error("--crop: the nets halve pictures three times, which takes a multiple of 8");
    run(options);
    return 0;
  });
}
