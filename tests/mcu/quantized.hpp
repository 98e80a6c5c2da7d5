#pragma once

#include <torch/torch.h>

#include <optional>
#include <utility>
#include <vector>

#include "examples/data/dataset.hpp"
#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/pare_data.hpp"

/// An example model with int8 activations and weights of so many bits.
inline pare::Model quantized(models::Bundle& bundle, const std::vector<pare::Batch>& calibration,
                             pare::Bits weights = {8}, bool exact_scales = false) {
  bundle.module->eval();
  const auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  return pare::apply(pare::Quantizer{.weights = weights, .exact_scales = exact_scales, .float_first_share = 0.0}, model,
                     {.calibration = calibration})
      .model;
}

/// MLPerf Tiny's ResNet-8 in float and int8, and 461 pictures of CIFAR-10.
struct TrainedResnet8 {
  models::Bundle bundle;
  data::Set set;
  pare::Model int8;
};

/// Nothing, said on stderr, without PARE_DATA.
inline std::optional<TrainedResnet8> trained_resnet8(bool exact_scales = false) {
  const auto weights = pare_data("mlperf_tiny_resnet8/resnet8_cifar10.safetensors");
  const auto test = pare_data("cifar10/test_lossless_461.bin");
  const auto train = pare_data("cifar10/train_lossless_3805.bin");
  if (!weights || !test || !train) return std::nullopt;
  auto bundle = models::make("resnet8");
  pare::load_weights(*bundle.module, pare::SafeTensors(*weights), bundle.load);
  auto set = data::load(*test, bundle.input, {});
  const auto calibration = data::load(*train, bundle.input, {.limit = 256}).batches(16);
  auto int8 = quantized(bundle, {calibration.begin(), calibration.end()}, {8}, exact_scales);
  return TrainedResnet8{std::move(bundle), std::move(set), std::move(int8)};
}
