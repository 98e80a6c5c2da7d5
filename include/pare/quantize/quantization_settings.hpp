#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pare/core/literals.hpp"
#include "pare/graph/target.hpp"
#include "pare/numerics/granularity.hpp"
#include "pare/pass/context.hpp"
#include "pare/quantize/any_observer.hpp"
#include "pare/quantize/learned_rounding.hpp"

PARE_NAMESPACE_BEGIN

/// How weights become integers.
enum class Rounding : std::uint8_t {
  Nearest,      ///< each weight on its own
  Compensated,  ///< later weights make up for the error of earlier ones (`CompensatedRounding`); needs calibration
  Learned,      ///< scales and integers by the error of each layer's output, what layers before left wrong included
                ///< (`LearnedRounding`): for weights of few bits; needs calibration
};

/// What `Quantizer` was told, with its policies behind one type.
struct QuantizationSettings {
  AnyObserver observer;
  AnyWeightObserver weight_observer;
  std::vector<std::string> keep_float;
  Bits weights;
  std::vector<std::pair<std::string, Bits>> layer_weights;
  Bits activations;
  std::vector<std::pair<std::string, Bits>> layer_activations;
  Granularity granularity;
  bool symmetric_weights;
  bool exact_scales;
  bool weight_only;
  Rounding rounding;
  LearnedRounding learned;
  bool correct_bias;
  bool smooth;
  bool judge_ranges;
  const TargetDescription* target;
  std::int64_t max_features;
  double float_first_share;
  bool round_biases = true;  ///< for targets of integers; training starts from them as they are
};

/// @throws Error `pare.quantize.103` when an option is out of range
void validate_quantization(const QuantizationSettings& settings);

/// Quantizes a model as the settings say: the body of `Quantizer::run`, compiled once for all policies.
Preserved quantize(Model& model, Context& context, const QuantizationSettings& settings);

PARE_NAMESPACE_END
