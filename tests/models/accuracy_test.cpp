// The float models reproduce what is known of their weights, which proves architecture, names and preprocessing at
// once. PARE_TEST_ALL takes every sample instead of a part.
#include <cmath>
#include <cstdlib>

#include "examples/data/dataset.hpp"
#include "examples/data/readers.hpp"
#include "examples/models/registry.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pare_data.hpp"

namespace {

struct Known {
  const char* model;
  const char* weights;
  const char* test;
  int64_t samples;  // of the part
  double at_least;  // percent, on the part and on the whole
};

constexpr Known kKnown[] = {
    {"resnet20", "cifar10/resnet20.safetensors", "cifar10/test_lossless_461.bin", 461, 90.8},
    {"resnet20", "cifar10/resnet20.safetensors", "cifar10/test_jpeg_4851.pack", 500, 72.0},
    {"resnet56", "cifar10/resnet56.safetensors", "cifar10/test_lossless_461.bin", 461, 94.1},
    {"resnet8", "mlperf_tiny_resnet8/resnet8_cifar10.safetensors", "cifar10/test_lossless_461.bin", 461, 88.7},
    {"efficientnet_lite0", "efficientnet_lite0/efficientnet_lite0_fp16.safetensors", "imagenet_sample", 48, 85.0},
    {"squeezenet", "squeezenet_v1.1/squeezenet_v1.1_fp16.safetensors", "imagenet_sample", 64, 58.0},
    {"minilm_sst2", "minilm_l6_sst2/minilm_l6_sst2_fp16.safetensors", "sst2/dev.tsv", 100, 86.0},
};

}  // namespace

TEST_CASE("pretrained models reproduce their accuracy") {
  const bool all = std::getenv("PARE_TEST_ALL") != nullptr;
  for (const auto& known : kKnown) {
    DYNAMIC_SECTION(known.model << " on " << known.test) {
      const auto weights = pare_data(known.weights);
      const auto test = pare_data(known.test);
      if (!weights || !test) return;
      auto bundle = models::make(known.model);
      pare::load_weights(*bundle.module, pare::SafeTensors(*weights), bundle.load);
      bundle.module->eval();
      data::LoadOptions options;
      if (!all) options.limit = known.samples;
      const auto set = data::load(*test, bundle.input, options);
      const double percent = data::top1_percent(data::outputs(bundle.forward, set, 16), set.labels);
      std::cerr << known.model << " on " << known.test << ": " << percent << " % of " << set.size() << '\n';
      CHECK(percent >= known.at_least);
    }
  }
}

TEST_CASE("the story model reproduces its perplexity") {
  const auto weights = pare_data("stories260k/stories260k.safetensors");
  const auto text = pare_data("stories260k/self_sampled_ids.bin");
  if (!weights || !text) return;
  constexpr int64_t kStories = 12, kLength = 129;
  auto bytes = data::read_file(*text);
  REQUIRE(bytes.size() == 2 * kStories * kLength);
  const auto ids = torch::from_blob(bytes.data(), {kStories, kLength}, torch::kShort).to(torch::kLong);

  auto bundle = models::make("llama");
  pare::load_weights(*bundle.module, pare::SafeTensors(*weights), bundle.load);
  bundle.module->eval();
  torch::NoGradGuard no_grad;
  const auto logits = bundle.forward({ids.slice(1, 0, -1)}).at(0);
  const auto loss = torch::nn::functional::cross_entropy(logits.flatten(0, 1), ids.slice(1, 1).flatten());
  CHECK(std::exp(loss.item<double>()) == Approx(3.379).margin(0.001));
}

TEST_CASE("padding does not touch a sentence's logits") {
  const auto weights = pare_data("minilm_l6_sst2/minilm_l6_sst2_fp16.safetensors");
  const auto test = pare_data("sst2/dev.tsv");
  if (!weights || !test) return;
  auto bundle = models::make("minilm_sst2");
  pare::load_weights(*bundle.module, pare::SafeTensors(*weights), bundle.load);
  bundle.module->eval();
  const auto narrow = data::load(*test, bundle.input, {.limit = 1});
  const auto wide = data::load(*test, bundle.input, {.limit = 1, .tokens = 64});
  CHECK(narrow.inputs[0].size(1) < 64);
  CHECK(wide.inputs[0].size(1) == 64);
  CHECK(torch::allclose(data::outputs(bundle.forward, narrow, 1), data::outputs(bundle.forward, wide, 1), 1e-4, 1e-5));
}
