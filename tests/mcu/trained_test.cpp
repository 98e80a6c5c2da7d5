// Classifiers trained here, as C on a microcontroller: each prediction is the packed model's.
#include <torch/torch.h>

#include "examples/data/dataset.hpp"
#include "examples/models/registry.hpp"
#include "pare/execute/compile.hpp"
#include "pare/mcu/write_c.hpp"
#include "tests/mcu/c_program.hpp"
#include "tests/mcu/quantized.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pare_data.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

void train(models::Bundle& bundle, const data::Set& set, int epochs) {
  constexpr int64_t kBatch = 64;
  torch::optim::Adam optimizer(bundle.module->parameters(), torch::optim::AdamOptions(2e-3));
  bundle.module->train();
  for (int epoch = 0; epoch < epochs; ++epoch) {
    const auto order = torch::randperm(set.size());
    for (int64_t first = 0; first < set.size(); first += kBatch) {
      const auto chosen = order.slice(0, first, std::min(first + kBatch, set.size()));
      optimizer.zero_grad();
      torch::nn::functional::cross_entropy(bundle.forward({set.inputs[0].index_select(0, chosen)}).at(0),
                                           set.labels.index_select(0, chosen))
          .backward();
      optimizer.step();
    }
  }
  bundle.module->eval();
}

// The files of a network whose limits of flash and RAM are given in bytes.
void check_trained(const std::string& name, const std::string& train_file, const std::string& test_file, int epochs,
                   double least_percent, std::int64_t flash, std::int64_t ram) {
  torch::manual_seed(4);
  auto bundle = models::make(name);
  const auto set = data::load(train_file, bundle.input, {}), test = data::load(test_file, bundle.input, {});
  train(bundle, set, epochs);
  const torch::NoGradGuard no_grad;
  const auto calibration = set.batches(64);
  const auto int8 = quantized(bundle, {calibration.begin(), calibration.begin() + 8});
  const auto reference = data::top1_percent(bundle.forward(test.inputs).at(0), test.labels);
  const auto packed = pare::compile(int8, {.tune = false})(test.inputs[0]);
  const auto packed_percent = data::top1_percent(packed, test.labels);

  const ScratchFolder folder;
  const auto source = pare::mcu::write_c(int8, folder.file("net.c"));
  const auto samples = integers(test.inputs[0], source.input);
  const auto scores = host_scores(folder, samples);
  const auto percent = data::top1_percent(scores.to(torch::kFloat), test.labels);
  std::cerr << fmt::format("{} on {} samples: {:.2f} % as C, {:.2f} % packed, {:.2f} % in float\n", name, test.size(),
                           percent, packed_percent, reference);
  CHECK(torch::equal(scores.argmax(1), packed.argmax(1)));
  CHECK(percent == packed_percent);
  CHECK(percent >= least_percent);
  CHECK(percent >= reference - 1.0);
  const auto cortex = run_on_cortex(folder, samples, scores.size(1));
  if (!cortex) return;
  CHECK(torch::equal(cortex->scores, scores));
  CHECK(cortex->flash < flash);
  CHECK(cortex->ram + cortex->stack < ram);
  CHECK(cortex->ram == source.arena_bytes);
  print_cortex(name, *cortex);
}

}  // namespace

TEST_CASE("digits, within 64 KB of flash and 8 KB of RAM", "[mcu]") {
  const auto train = pare_data("digits/digits_train.csv"), test = pare_data("digits/digits_test.csv");
  if (train && test) check_trained("digits_mlp", *train, *test, 60, 94, 64 << 10, 8 << 10);
}

TEST_CASE("MNIST, within 1 MB of flash and 64 KB of RAM", "[mcu]") {
  const auto train = pare_data("mnist/train20k-images-idx3-ubyte.gz"),
             test = pare_data("mnist/t5k-first-images-idx3-ubyte.gz");
  if (train && test) check_trained("mlp", *train, *test, 4, 93, 1 << 20, 64 << 10);
}
