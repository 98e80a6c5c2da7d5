#include "pare/quantize/sketch.hpp"

#include <algorithm>

#include "pare/numerics/min_max.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"

PARE_NAMESPACE_BEGIN

Model sketch(const Model& model, const Plan& plan, const Batch& inputs) {
  const auto integers = plan.layer_weights();
  if (integers.empty()) return model;
  Quantizer<WeightMinMax, MinMax> quantizer;
  quantizer.keep_float = plan.float_layers();
  quantizer.layer_weights = integers;
  quantizer.rounding = Rounding::Nearest;
  quantizer.correct_bias = false;
  quantizer.judge_ranges = false;
  ContextOptions context;
  context.calibration = std::vector<Batch>{inputs};
  return apply(quantizer, model, std::move(context)).model;
}

PARE_NAMESPACE_END
