#include <algorithm>
#include <map>

#include "examples/models/registry.hpp"
#include "pare/core/error.hpp"
#include "tests/support/catch.hpp"

namespace {

using Shapes = std::vector<std::vector<int64_t>>;

// Output shapes; -1 is the batch.
const std::map<std::string, Shapes>& expected() {
  static const std::map<std::string, Shapes> shapes = {
      {"mlp", {{-1, 10}}},
      {"digits_mlp", {{-1, 10}}},
      {"lenet", {{-1, 10}}},
      {"resnet8", {{-1, 10}}},
      {"resnet20", {{-1, 10}}},
      {"resnet32", {{-1, 10}}},
      {"resnet44", {{-1, 10}}},
      {"resnet56", {{-1, 10}}},
      {"resnet18", {{-1, 1000}}},
      {"resnet50", {{-1, 1000}}},
      {"resnext50", {{-1, 1000}}},
      {"densenet", {{-1, 1000}}},
      {"squeezenet", {{-1, 1000}}},
      {"inception", {{-1, 100}}},
      {"unet", {{-1, 1, 128, 128}}},
      {"multi_head", {{-1, 432, 4}, {-1, 432, 8}, {-1, 5, 96, 96}, {-1, 1, 96, 96}}},
      {"mobilenetv2", {{-1, 1000}}},
      {"mobilenetv3", {{-1, 1000}}},
      {"efficientnet_lite0", {{-1, 1000}}},
      {"efficientnet_lite1", {{-1, 1000}}},
      {"shufflenetv2", {{-1, 1000}}},
      {"ghostnet", {{-1, 1000}}},
      {"swin", {{-1, 1000}}},
      {"lstm", {{-1, 4}}},
      {"gru", {{-1, 4}}},
      {"transformer", {{-1, 4}}},
      {"llama", {{-1, 64, 512}}},
      {"bert6x384", {{-1, 128, 384}}},
      {"minilm_sst2", {{-1, 2}}},
      {"two_tower", {{-1, -1}}},
  };
  return shapes;
}

void check_outputs(const models::Bundle& bundle, const models::Tensors& outputs, int64_t batch) {
  const auto& shapes = expected().at(bundle.name);
  REQUIRE(outputs.size() == shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    std::vector<int64_t> shape = shapes[i];
    std::replace(shape.begin(), shape.end(), int64_t{-1}, batch);
    CHECK(outputs[i].sizes().vec() == shape);
    CHECK(torch::isfinite(outputs[i]).all().item<bool>());
  }
}

}  // namespace

TEST_CASE("every model runs forward at two batch sizes and backward") {
  torch::manual_seed(0);
  for (const auto& name : models::names()) {
    DYNAMIC_SECTION(name) {
      REQUIRE(expected().count(name) == 1);
      auto bundle = models::make(name);
      models::settle(bundle, 1, 2);
      bundle.module->eval();
      {
        torch::NoGradGuard no_grad;
        for (const int64_t batch : {1, 3}) {
          const auto outputs = bundle.forward(bundle.example(batch));
          check_outputs(bundle, outputs, batch);
          if (batch == 3) {
            // Neither dead nor exploded.
            const double deviation = outputs[0].to(torch::kFloat).std().item<double>();
            CHECK(deviation > 1e-3);
            CHECK(deviation < 1e3);
          }
        }
      }
      bundle.module->train();
      torch::Tensor loss = torch::zeros({});
      for (const auto& output : bundle.forward(bundle.example(2))) loss = loss + output.pow(2).mean();
      loss.backward();
      for (const auto& parameter : bundle.module->named_parameters()) {
        INFO(parameter.key());
        REQUIRE(parameter.value().grad().defined());
        CHECK(torch::isfinite(parameter.value().grad()).all().item<bool>());
      }
    }
  }
}

TEST_CASE("a model's path may depend on its input") {
  torch::manual_seed(0);
  auto bundle = models::make("data_dependent");
  CHECK(bundle.forward(bundle.example(3)).at(0).sizes() == torch::IntArrayRef({3, 4}));
}

TEST_CASE("an unknown model is named in the error") {
  try {
    models::make("nonesuch");
    FAIL("no error");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.data.101");
    CHECK(error.path() == "nonesuch");
  }
}
