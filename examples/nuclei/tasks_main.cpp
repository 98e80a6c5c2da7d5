// Three tasks in one network: where nuclei are, which pixels are inside, how far from the edge. It is trained, then
// made smaller under a budget for each task: a candidate that breaks one of them is not taken, however good the others
// are.
//
//   build/examples/nuclei_tasks $PARE_DATA/dsb2018_nuclei --html tasks.html
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <numbers>

#include "examples/nuclei/task_net.hpp"
#include "examples/nuclei/tasks.hpp"
#include "examples/program.hpp"
#include "pare/capture/capture.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/pipeline/auto.hpp"
#include "pare/pipeline/html_report.hpp"

namespace {

struct Options {
  std::string data, weights, html, checkpoint;
  std::int64_t width = 12, judged = 40;
  int epochs = 20, taught = 8, threads = 2;
  double smaller = 6, detection = 1.0, segmentation = 0.5, distance = 1.0;
};

constexpr std::int64_t kPiece = 128, kBatch = 8;

void train(nuclei::TaskNet& net, const nuclei::TaskSamples& samples, int epochs) {
  constexpr double kRate = 3e-3;
  torch::optim::AdamW optimizer(net->parameters(), torch::optim::AdamWOptions(kRate));
  const auto data = nuclei::pieces_of(samples, kPiece, kBatch, 1);
  net->train();
  for (int epoch = 0; epoch < epochs; ++epoch) {
    const double rate = kRate * 0.5 * (1 + std::cos(std::numbers::pi * epoch / epochs));
    for (auto& group : optimizer.param_groups()) group.options().set_lr(rate);
    for (const auto& batch : data.epoch(epoch)) {
      optimizer.zero_grad();
      const auto [centre, inside, distance] = net->forward(batch[0]);
      nuclei::task_loss({centre, inside, distance}, {batch[1], batch[2], batch[3]}).backward();
      optimizer.step();
    }
  }
}

void prepare(nuclei::TaskNet& net, const nuclei::TaskSamples& samples, const Options& options) {
  if (!options.weights.empty() && std::filesystem::exists(options.weights)) {
    pare::load_weights(*net, pare::SafeTensors(options.weights));
  } else {
    train(net, samples, options.epochs);
    if (!options.weights.empty()) pare::save_safetensors(options.weights, pare::named_weights(*net));
  }
  net->eval();
}

pare::AutoOptions asked(const nuclei::TaskSamples& training, const nuclei::TaskSamples& judging,
                        std::uint64_t float_bytes, const Options& options) {
  pare::AutoOptions how;
  std::vector<pare::Batch> pieces;
  for (const auto& batch : nuclei::pieces_of(training, kPiece, kBatch, 2).epoch(0))
    if (pieces.size() < 6) pieces.push_back({batch[0]});
  how.calibration = pieces;
  how.heads = nuclei::task_heads(judging);
  how.heads[0].max_drop = pare::Ratio{options.detection / 100};
  how.heads[1].max_drop = pare::Ratio{options.segmentation / 100};
  how.heads[2].max_drop = pare::Ratio{options.distance / 100};
  how.budget.bytes = pare::Bytes{static_cast<std::uint64_t>(static_cast<double>(float_bytes) / options.smaller)};
  how.compile.threads = options.threads;
  how.example = {training.images.narrow(0, 0, 1)};
  how.training.data = nuclei::pieces_of(training, kPiece, kBatch, 3);
  how.training.fit = {.epochs = options.taught, .rate = 1e-3};
  // What the teacher says and what is true.
  how.training.loss = [](const std::vector<torch::Tensor>& own, const std::vector<torch::Tensor>& teacher,
                         const pare::Batch& truth) {
    auto imitation = (own[2] - teacher[2]).abs().mean() * 4;
    for (const std::size_t logits : {0, 1})
      imitation = imitation + torch::binary_cross_entropy_with_logits(own[logits], torch::sigmoid(teacher[logits]));
    return nuclei::task_loss(own, truth) + imitation;
  };
  how.checkpoint = options.checkpoint;
  how.log = pare::Log::to(stderr);
  return how;
}

// On pictures that neither training nor the choice has seen.
void compare(const pare::AutoResult& found, const nuclei::TaskSamples& test) {
  fmt::print("\n{:<14}{:>10}{:>10}{:>10}   on {} test pictures\n", "", "float", "chosen", "drop", test.images.size(0));
  for (const auto& head : nuclei::task_heads(test)) {
    const auto before = head.scores([&](const auto&x) { return found.original.run(x); }),
               after = head.scores([&](const auto&x) { return found.compiled.run(x); });
    fmt::print("{:<14}{:>10.4f}{:>10.4f}   {}\n", head.name, before.mean().item<double>(), after.mean().item<double>(),
               pare::estimate_drop(before, after).text());
  }
}

int run(const Options& options) {
  torch::manual_seed(0);
  at::set_num_threads(options.threads);
  const auto all = nuclei::load_tasks(options.data, "train"), test = nuclei::load_tasks(options.data, "test");
  const auto own = all.images.size(0) - options.judged;
  const auto training = all.rows(0, own), judging = all.rows(own, options.judged);
  nuclei::TaskNet net(options.width);
  prepare(net, training, options);
  const auto model = pare::capture(net, torch::randn({2, 1, kPiece, kPiece}),
                                   {.dims = {{"batch"}, {"height", {{0, 2}}}, {"width", {{0, 3}}}}});
  std::uint64_t bytes = 0;
  for (const auto& parameter : net->parameters()) bytes += parameter.nbytes();
  const auto found = pare::optimize(model, asked(training, judging, bytes, options));
  fmt::print("{}\n", found.report);
  fmt::print("{:<44}{:>10}{:>14}{:>10}{:>10}{:>9}\n", "candidate", "detection", "segmentation", "distance", "bytes",
             "ms");
  for (const auto& one : found.candidates)
    fmt::print("{:<44}{:>10.4f}{:>14.4f}{:>10.4f}{:>10}{:>9.3f}  {}\n", one.name, one.heads[0].after,
               one.heads[1].after, one.heads[2].after, one.measured.weight_bytes, one.measured.latency.median_ms,
               one.reason);
  compare(found, test);
  if (!options.html.empty()) {
    pare::HtmlReportOptions page{.title = "Nuclei: three tasks, three budgets"};
    page.samples = {test.images.narrow(0, 0, 3)};
    pare::write_html_report(options.html, found, page);
    fmt::print("report: {}\n", options.html);
  }
  return found.report.within_budget() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Three tasks in one network, made smaller under a budget for each"};
  Options options;
  app.add_option("data", options.data, "Folder of dsb2018_nuclei")->required();
  app.add_option("--weights", options.weights, "safetensors: read if there, else written after training")
      ->check(CLI::ExistingFile | program::writable_file());
  app.add_option("--html", options.html, "Where to write the report")->check(program::writable_file());
  app.add_option("--checkpoint", options.checkpoint, "Folder to go on from");
  app.add_option("--width", options.width, "Channels of the first level")->check(CLI::Range(4, 256));
  app.add_option("--judged", options.judged, "Training pictures set aside to judge by")->check(CLI::Range(8, 150));
  app.add_option("--epochs", options.epochs, "Epochs of the first training")->check(CLI::Range(1, 10000));
  app.add_option("--taught", options.taught, "Epochs of what is pruned")->check(CLI::Range(1, 10000));
  app.add_option("--smaller", options.smaller, "How many times smaller its weights shall be")
      ->check(program::within(1, 64));
  app.add_option("--detection", options.detection, "Points of F1 that detection may lose")
      ->check(program::within(0, 100));
  app.add_option("--segmentation", options.segmentation, "Points of Dice that segmentation may lose")
      ->check(program::within(0, 100));
  app.add_option("--distance", options.distance, "Points that the distance may lose")->check(program::within(0, 100));
  app.add_option("--threads", options.threads, "Threads")->check(CLI::Range(1, 1024));
  return program::run("nuclei_tasks", app, 2, [&] {
    app.parse(argc, argv);
    return run(options);
  });
}
