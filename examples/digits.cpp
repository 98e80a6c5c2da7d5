// From training to a report in one process: a small network learns handwritten digits with LibTorch; pare captures it,
// measures what each layer bears, plans, prunes, distils and quantizes as far as a budget of bytes and accuracy needs,
// compiles it and writes what it did as an HTML page. Nothing in the network knows of pare.
#include <torch/torch.h>

#include <CLI/CLI.hpp>

#include "examples/data/dataset.hpp"
#include "examples/program.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/capture/capture.hpp"
#include "pare/core/error.hpp"
#include "pare/pipeline/auto.hpp"
#include "pare/pipeline/html_report.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

struct DigitNetImpl : nn::Module {
  DigitNetImpl() {
    const auto block = [](int64_t in, int64_t out) {
      return nn::Sequential(nn::Conv2d(nn::Conv2dOptions(in, out, 3).padding(1).bias(false)), nn::BatchNorm2d(out),
                            nn::ReLU());
    };
    stem = register_module("stem", block(1, 32));
    body = register_module("body", block(32, 64));
    residual = register_module("residual", block(64, 64));
    head = register_module("head", nn::Linear(64, 10));
  }
  torch::Tensor forward(const torch::Tensor& images) {
    auto x = body->forward(torch::max_pool2d(stem->forward(images), 2));
    x = x + residual->forward(x);
    return head(torch::adaptive_avg_pool2d(x, {1, 1}).flatten(1));
  }
  nn::Sequential stem{nullptr}, body{nullptr}, residual{nullptr};
  nn::Linear head{nullptr};
};
TORCH_MODULE(DigitNet);

void train(DigitNet& net, const data::Set& digits, int epochs) {
  constexpr int64_t kBatch = 64;
  torch::optim::AdamW optimizer(net->parameters(), torch::optim::AdamWOptions(2e-3));
  net->train();
  for (int epoch = 0; epoch < epochs; ++epoch) {
    double sum = 0;
    const auto order = torch::randperm(digits.size());
    for (int64_t first = 0; first < digits.size(); first += kBatch) {
      const auto chosen = order.slice(0, first, std::min(first + kBatch, digits.size()));
      optimizer.zero_grad();
      const auto loss = nn::functional::cross_entropy(net->forward(digits.inputs[0].index_select(0, chosen)),
                                                      digits.labels.index_select(0, chosen));
      loss.backward();
      optimizer.step();
      sum += loss.item<double>() * static_cast<double>(chosen.size(0));
    }
    fmt::print("epoch {:2}  loss {:.4f}\n", epoch + 1, sum / static_cast<double>(digits.size()));
  }
  net->eval();
}

pare::AutoOptions asked(const pare::Model& model, const data::Set& digits, const data::Set& unseen, double smaller,
                        const std::string& checkpoint) {
  pare::AutoOptions options;
  options.calibration = digits.batches(32);
  options.scores = pare::top1_scores(unseen.batches(64), unseen.labels);
  // Less than int8, 4 bits or pruning alone reach: what is left has to be taught.
  options.budget = {.max_drop = 0.5_pct,
                    .bytes = pare::Bytes{
                        static_cast<std::uint64_t>(static_cast<double>(pare::WeightStorage(model).bytes()) / smaller)}};
  options.training.data = pare::TrainingData::shuffled({digits.inputs[0], digits.labels}, 64);
  options.training.fit = {.epochs = 20, .rate = 2e-3};
  options.checkpoint = checkpoint;
  options.progress = pare::Progress::to(stderr);
  return options;
}

void print_candidates(const pare::AutoResult& result) {
  fmt::print("\n{:<52}{:>8}{:>9}{:>9}  {}\n", "candidate", "top-1 %", "bytes", "ms", "");
  for (const auto& one : result.candidates)
    fmt::print("{:<52}{:>8.2f}{:>9}{:>9.4f}  {}\n", one.name, 100 * *one.measured.metric, one.measured.weight_bytes,
               one.measured.latency.median_ms, one.kept ? "chosen: " + one.reason : one.reason);
}

struct Options {
  std::string train_file, test_file, report, page, checkpoint;
  int epochs = 15;
  double smaller = 9;
};

int run(const Options& options) {
  torch::manual_seed(0);
  const data::InputFormat format{
      .kind = data::InputFormat::Kind::kImage, .channels = 1, .size = 8, .mean = {8}, .divisor = {8}};
  const auto digits = data::load(options.train_file, format), unseen = data::load(options.test_file, format);
  DigitNet net;
  train(net, digits, options.epochs);

  const auto model = pare::capture(net, digits.inputs[0].slice(0, 0, 2));
  const auto result = pare::optimize(model, asked(model, digits, unseen, options.smaller, options.checkpoint));
  if (result.sensitivity) fmt::print("\nwhat each layer bears\n{}", result.sensitivity->text());
  fmt::print("\n{}\n{}", result.report, result.plan);
  print_candidates(result);
  if (!options.report.empty() && !program::write_text(options.report, result.report.json() + '\n'))
    pare::fail("digits.101", options.report, "the report cannot be written");
  if (!options.page.empty()) {
    pare::HtmlReportOptions page{
        .title = "Handwritten digits", .watts = 65, .grams_per_kwh = 400, .price_per_kwh = 0.25, .currency = "EUR"};
    page.samples = {unseen.inputs[0].slice(0, 0, 3)};
    pare::write_html_report(options.page, result, page);
    fmt::print("\nreport: {}\n", options.page);
  }
  return result.report.within_budget() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Trains a network on handwritten digits, then makes it as small as a budget asks."};
  Options options;
  app.add_option("--train", options.train_file, "digits to learn, a csv with the label first")->required();
  app.add_option("--test", options.test_file, "digits to judge by, likewise")->required();
  app.add_option("--epochs", options.epochs, "rounds of training")->check(CLI::Range(1, 1000));
  app.add_option("--smaller", options.smaller, "how many times smaller the weights shall be")
      ->check(program::within(1, 64));
  app.add_option("--checkpoint", options.checkpoint, "folder to go on from when a run was stopped");
  app.add_option("--html", options.page, "where to write the report as a page")->check(program::writable_file());
  app.add_option("--json", options.report, "where to write the report")->check(program::writable_file());
  return program::run("digits", app, 2, [&] {
    app.parse(argc, argv);
    return run(options);
  });
}
