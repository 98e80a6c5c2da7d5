// How far the packed model is from the simulation goes with how far int8 is from float.
#include <torch/torch.h>

#include <iostream>
#include <vector>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"

namespace {

pare::Model captured(models::Bundle& bundle) {
  models::settle(bundle);
  bundle.module->eval();
  return pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
}

/// A random network, the last batch norm of each residual branch scaled.
pare::Model with_branches(const std::string& name, double scale) {
  torch::manual_seed(1);
  auto bundle = models::make(name);
  const auto model = captured(bundle);
  if (scale == 1) return model;
  const auto parameters = bundle.module->named_parameters();
  for (const auto& region : pare::match_regions(model.graph()))
    if (region.batch_norm != pare::kNoNode && region.residual_add != pare::kNoNode)
      parameters[model.graph().value(model.graph().node(region.batch_norm).input(1)).name].mul_(scale);
  return captured(bundle);
}

void check_agreement(const std::string& name, const std::vector<double>& scales = {1.0, 0.25}) {
  const torch::NoGradGuard no_grad;
  for (const double scale : scales) {
    const auto model = with_branches(name, scale);
    const auto& type = model.graph().value(model.graph().inputs()[0]).type;
    const auto batch = [&] {
      return torch::randn({8, *type.sizes[1].constant(), *type.sizes[2].constant(), *type.sizes[3].constant()});
    };
    const auto x = batch();
    const auto int8 = pare::apply(pare::Quantizer{}, model, {.calibration = pare::Batches{batch()}}).model;
    const auto simulated = int8(x);
    const auto lost = pare::sqnr_db(model(x), simulated),
               apart = pare::sqnr_db(simulated, pare::compile(int8, {.tune = false})(x));
    std::cerr << fmt::format(
        "{}, residual branches times {}: int8 from float {:.1f} dB, packed from simulation {:.1f} dB\n", name, scale,
        lost, apart);
    CHECK(apart > lost + 3);
  }
}

}  // namespace

TEST_CASE("a packed network agrees with the simulation better than int8 with float", "[execute]") {
  check_agreement("mobilenetv3");
}

TEST_CASE("so do all deep ones", "[.agreement]") {
  for (const auto* name : {"mobilenetv2", "mobilenetv3", "efficientnet_lite0", "resnet50"}) check_agreement(name);
  for (const auto* name : {"ghostnet", "shufflenetv2"}) check_agreement(name, {1.0});
}
