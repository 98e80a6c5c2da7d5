#pragma once

#include <vector>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"

/// An example model with int8 activations and weights of so many bits.
inline pare::Model quantized(models::Bundle& bundle, const std::vector<pare::Batch>& calibration,
                             pare::Bits weights = {8}) {
  bundle.module->eval();
  const auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  return pare::apply(pare::Quantizer{.weights = weights}, model, {.calibration = calibration}).model;
}
