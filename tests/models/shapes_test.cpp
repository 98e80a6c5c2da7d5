#include <map>

#include "examples/models/registry.hpp"
#include "tests/support/catch.hpp"

namespace {

using Shapes = std::vector<std::vector<int64_t>>;

// Output shapes after the batch dimension.
const std::map<std::string, Shapes>& expected() {
  static const std::map<std::string, Shapes> shapes = {
      {"mlp", {{10}}},         {"lenet", {{10}}},         {"resnet20", {{10}}},   {"resnet32", {{10}}},
      {"resnet44", {{10}}},    {"resnet56", {{10}}},      {"resnet18", {{1000}}}, {"resnet50", {{1000}}},
      {"resnext50", {{1000}}}, {"mobilenetv2", {{1000}}},
  };
  return shapes;
}

void check_outputs(const models::Bundle& bundle, const models::Tensors& outputs, int64_t batch) {
  const auto& shapes = expected().at(bundle.name);
  REQUIRE(outputs.size() == shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    std::vector<int64_t> shape = {batch};
    shape.insert(shape.end(), shapes[i].begin(), shapes[i].end());
    CHECK(outputs[i].sizes().vec() == shape);
    CHECK(torch::isfinite(outputs[i]).all().item<bool>());
  }
}

}  // namespace

TEST_CASE("every model runs forward at two batch sizes and backward") {
  torch::manual_seed(0);
  for (const auto& name : models::names()) {
    INFO(name);
    auto bundle = models::make(name);
    models::settle(bundle, 1, 2);
    bundle.module->eval();
    {
      torch::NoGradGuard no_grad;
      for (const int64_t batch : {1, 3}) {
        const auto outputs = bundle.forward(bundle.example(batch));
        check_outputs(bundle, outputs, batch);
        if (batch == 3) {
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
