// A U-Net that finds cell nuclei (2018 Data Science Bowl), trained, pruned and compiled in one process:
//
// 1. trained as anyone would;
// 2. 95 % of its weights set to zero at once: by magnitude, and with the weights that stay solved anew;
// 3. the same little by little, each layer as far as it can bear, written back into the live net whose training goes
// on.
//
//   build/examples/nuclei $PARE_DATA/dsb2018_nuclei --pictures out/
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "examples/models/unet.hpp"
#include "examples/nuclei/segmentation.hpp"
#include "examples/program.hpp"
#include "pare/analysis/latency.hpp"
#include "pare/capture/commit.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/magnitude.hpp"
#include "pare/prune/masks.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/prune/sparse_training.hpp"
#include "pare/prune/sparsifier.hpp"

namespace {

struct Options {
  std::string data, weights, pictures;
  std::int64_t width = 8, tests = 60;
  int epochs = 20, tuning = 4, threads = 2;
};

nuclei::Forward forward_of(models::UNet& net) {
  return [&net](const torch::Tensor& x) { return net->forward(x); };
}
nuclei::Forward forward_of(const pare::Model& model) {
  return [model](const torch::Tensor& x) { return model(x); };
}

using Say = std::function<void(const std::string& what, double dice)>;

pare::Model capture(models::UNet& net) {
  return pare::capture(net, torch::randn({2, 1, 128, 128}),
                       {.dims = {{"batch"}, {"height", {{0, 2}}}, {"width", {{0, 3}}}}});
}

// Trains the net, or reads what an earlier run has trained.
void prepare(models::UNet& net, const nuclei::Samples& training, const Options& options) {
  if (!options.weights.empty() && std::filesystem::exists(options.weights)) {
    pare::load_weights(*net, pare::SafeTensors(options.weights));
  } else {
    torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(2e-3));
    net->train();
    nuclei::train(forward_of(net), optimizer, training, {.epochs = options.epochs});
    if (!options.weights.empty()) pare::save_safetensors(options.weights, pare::named_weights(*net));
  }
  net->eval();
}

double sparsity_of(const torch::nn::Module& net) {
  double zeros = 0, total = 0;
  for (const auto& parameter : net.parameters()) {
    zeros += parameter.eq(0).sum().item<double>();
    total += static_cast<double>(parameter.numel());
  }
  return 100 * zeros / total;
}

// Input, truth and answers side by side; and where the weights of one layer are.
void draw(const Options& options, const nuclei::Samples& test, const std::vector<nuclei::Forward>& answers,
          const pare::Model& sparse) {
  if (options.pictures.empty()) return;
  const torch::NoGradGuard no_grad;
  for (const std::int64_t i : {0, 7, 23}) {
    if (i >= test.images.size(0)) continue;
    const auto image = test.images[i][0];
    std::vector<torch::Tensor> strip{(image - image.min()) / (image.max() - image.min()), test.masks[i][0]};
    for (const auto& answer : answers) strip.push_back(torch::sigmoid(answer(test.images.narrow(0, i, 1)))[0][0]);
    nuclei::write_strip(fmt::format("{}/nuclei_{}.png", options.pictures, i), strip);
  }
  const auto mask = sparse.weight("merge.0.layers.0.weight").ne(0).flatten(1).to(torch::kFloat);
  nuclei::write_strip(options.pictures + "/mask_merge_0.png",
                      {mask.narrow(1, 0, std::min<std::int64_t>(mask.size(1), 1024))});
}

// Whole channels leave a live net of its own, which is trained on.
void thin(const Options& options, const pare::Model& dense, const nuclei::Samples& training,
          const nuclei::Samples& test, const pare::ContextOptions& context, const Say& say) {
  models::UNet net(1, 1, options.width, 3);
  pare::commit(dense, net);
  net->eval();
  const auto pruned = pare::apply(pare::Pruner{.macs = pare::Ratio{0.5}}, capture(net), context);
  say("half of the multiply-accumulates, not trained", nuclei::dice(forward_of(pruned.model), test));
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(2e-3));
  pare::commit(pruned.model, net, optimizer);
  net->train();
  nuclei::train(forward_of(net), optimizer, training, {.epochs = 3 * options.tuning, .rate = 1e-3});
  net->eval();
  say("half of the multiply-accumulates, trained on", nuclei::dice(forward_of(net), test));
  const auto before = pare::compile(dense, {.threads = options.threads});
  const auto after = pare::compile(capture(net), {.threads = options.threads});
  const auto picture = test.images.narrow(0, 0, 1);
  const auto times =
      pare::measure_latency({[&] { (void)before.run({picture}); }, [&] { (void)after.run({picture}); }}, 1.0);
  const double slow = times[0].median_ms, fast = times[1].median_ms;
  fmt::print("compiled, one picture: {:.2f} ms and {:.2f} ms, {:.2f} times faster\n", slow, fast, slow / fast);
}

void run(const Options& options) {
  if (!options.pictures.empty()) std::filesystem::create_directories(options.pictures);  // or say so before hours
  torch::manual_seed(0);
  at::set_num_threads(options.threads);
  const auto training = nuclei::load(options.data, "train"), test = nuclei::load(options.data, "test", options.tests);
  models::UNet net(1, 1, options.width, 3);
  prepare(net, training, options);
  const Say say = [](const std::string& what, double dice) {
    fmt::print("{:<58} {:6.2f}\n", what, dice);
    std::fflush(stdout);  // each takes a while
  };
  fmt::print("{:<58} {:>6}\n", "", "Dice");
  auto dense = capture(net);
  dense.detach_weights();  // what follows trains the live net
  say("trained", nuclei::dice(forward_of(dense), test));

  const pare::ContextOptions context{.calibration = nuclei::pieces(training, 24, 8)};
  const auto by_size = pare::apply(pare::Sparsifier{.importance = pare::Magnitude{},
                                                    .sparsity = {0.95},
                                                    .allocation = pare::SparsityAllocation::Global,
                                                    .update_weights = false},
                                   dense);
  say("95 % at once, by magnitude", nuclei::dice(forward_of(by_size.model), test));
  const auto solved = pare::apply(pare::Sparsifier{.sparsity = {0.95}}, dense, context);
  say("95 % at once, the others solved anew", nuclei::dice(forward_of(solved.model), test));

  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(2e-3));
  pare::Model last;
  for (const double sparsity : {0.8, 0.9, 0.95}) {
    auto step = pare::apply(pare::Sparsifier{.sparsity = {sparsity}}, capture(net), context);
    pare::commit(step.model, net, optimizer);
    {
      const pare::SparseTraining sparse{*net, pare::Masks::of(*net), optimizer};
      net->train();
      nuclei::train(forward_of(net), optimizer, training, {.epochs = options.tuning, .rate = 1e-3});
      net->eval();
    }
    say(fmt::format("{:.0f} % little by little, trained on ({:.1f} % of everything)", 100 * sparsity,
                    sparsity_of(*net)),
        nuclei::dice(forward_of(net), test));
    if (sparsity == 0.95) {
      last = capture(net);
      last.detach_weights();
    }
  }
  thin(options, dense, training, test, context, say);
  draw(options, test, {forward_of(dense), forward_of(by_size.model), forward_of(last)}, last);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Trains, prunes and trains on a U-Net that finds cell nuclei."};
  app.add_option("data", options.data, "Folder of dsb2018_nuclei")->required();
  app.add_option("--weights", options.weights, "safetensors: read if there, else written after training")
      ->check(CLI::ExistingFile | program::writable_file());
  app.add_option("--pictures", options.pictures, "Folder for predictions and masks as PNG");
  app.add_option("--width", options.width, "Channels of the first level")->check(CLI::Range(1, 256));
  app.add_option("--tests", options.tests, "Test pictures to judge by")->check(CLI::Range(1, 1000));
  app.add_option("--epochs", options.epochs, "Epochs of the first training")->check(CLI::Range(1, 10000));
  app.add_option("--tuning", options.tuning, "Epochs after each step")->check(CLI::Range(1, 10000));
  app.add_option("--threads", options.threads, "Threads")->check(CLI::Range(1, 1024));
  return program::run("nuclei", app, 1, [&] {
    app.parse(argc, argv);
    run(options);
    return 0;
  });
}
