// The float models reproduce what is known of their weights, which proves architecture, names and preprocessing at
// once. PARE_TEST_ALL takes every sample instead of a part.
#include <cstdlib>

#include "examples/data/dataset.hpp"
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
    {"resnet20", "cifar10/resnet20.safetensors", "cifar10/test_jpeg_4851.pack", 1000, 79.0},
    {"resnet56", "cifar10/resnet56.safetensors", "cifar10/test_lossless_461.bin", 461, 94.1},
    {"resnet8", "mlperf_tiny_resnet8/resnet8_cifar10.safetensors", "cifar10/test_lossless_461.bin", 461, 88.7},
    {"efficientnet_lite0", "efficientnet_lite0/efficientnet_lite0_fp16.safetensors", "imagenet_sample", 100, 85.0},
    {"squeezenet", "squeezenet_v1.1/squeezenet_v1.1_fp16.safetensors", "imagenet_sample", 100, 58.0},
    {"minilm_sst2", "minilm_l6_sst2/minilm_l6_sst2_fp16.safetensors", "sst2/dev.tsv", 200, 86.0},
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
      pare::load_weights(*bundle.module, pare::SafeTensors(*weights));
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
