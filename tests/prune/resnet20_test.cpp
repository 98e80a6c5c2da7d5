// A real network, pruned to a fifth of its weights without training.
#include <torch/torch.h>

#include "examples/data/dataset.hpp"
#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/magnitude.hpp"
#include "pare/prune/masks.hpp"
#include "pare/prune/sparsifier.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pare_data.hpp"

TEST_CASE("ResNet-20 keeps its accuracy with a fifth of its weights", "[sparsifier][real]") {
  const auto weights = pare_data("cifar10/resnet20.safetensors");
  const auto test = pare_data("cifar10/test_lossless_461.bin");
  const auto training = pare_data("cifar10/train_lossless_3805.bin");
  if (!weights || !test || !training) return;
  const torch::NoGradGuard no_grad;
  auto bundle = models::make("resnet20");
  pare::load_weights(*bundle.module, pare::SafeTensors(*weights), bundle.load);
  bundle.module->eval();
  const auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  const auto calibration = data::load(*training, bundle.input, {.limit = 256}).batches(32);
  const auto set = data::load(*test, bundle.input);
  const auto accuracy = [&](const pare::Model& pruned) {
    return data::top1_percent(data::outputs([&](const auto& inputs) { return pruned.run(inputs); }, set, 64),
                              set.labels);
  };
  const auto ours = pare::apply(pare::Sparsifier{.sparsity = {0.8}, .probe_samples = 128}, model,
                                {.calibration = pare::Batches(calibration)});
  const auto plain = pare::apply(pare::Sparsifier{.importance = pare::Magnitude{},
                                                  .sparsity = {0.8},
                                                  .allocation = pare::SparsityAllocation::Global,
                                                  .update_weights = false},
                                 model);
  CHECK(pare::Masks::of(ours.model).sparsity() >= 0.799);
  const double solved = accuracy(ours.model), by_size = accuracy(plain.model);
  std::cerr << "ResNet-20 at 80 %: " << solved << " %, by magnitude alone " << by_size << " %\n";
  CHECK(solved >= 80.0);
  CHECK(by_size < 60.0);
}
