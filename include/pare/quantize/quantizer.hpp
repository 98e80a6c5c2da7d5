#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pare/numerics/histogram_mse.hpp"
#include "pare/quantize/quantization_settings.hpp"

PARE_NAMESPACE_BEGIN

/// Post-training quantization: float model and calibration batches in, simulated integer model out.
///
///     pare::Quantizer{}                                                       // int8, nothing to tune
///     pare::Quantizer{.observer = pare::Percentile{99.9}, .keep_float = {"fc", "stem.*"}}
///     pare::Quantizer{.granularity = pare::PerTensor{}, .rounding = pare::Rounding::Nearest}
///     pare::Quantizer{.weights = {4}, .rounding = pare::Rounding::Learned}
///     pare::Quantizer{.exact_scales = true}                                   // every runtime the same integers
///     pare::Quantizer{.weight_only = true}                                    // needs no calibration
///
/// Before: a float graph. After: the same graph with `aten::fake_quantize_*` nodes, which `compile()` turns into
/// integer kernels:
/// - a fused region (layer, bias, residual sum, activation) is quantized once, at its output, and only where a layer
///   that computes in integers reads it; outputs of the model and inputs of norms and softmax stay float;
/// - ops that only move elements share the quantization of what they move, concatenations make their inputs share one;
/// - weights stay float in the weight table, already on their grid, and feed a fake-quantize with their scales
///   (`<path>.scale`, `<path>.zero_point`); weights of embeddings and recurrent layers are quantized alone; a tied
///   weight that another layer reads as it is, or in other bits, keeps its numbers, and each layer rounds its own.
///
/// The ladder: batch norms are folded, attention written out, transformers smoothed (`SmoothQuant`), then one sweep
/// over the calibration batches gathers ranges and second moments, weights are rounded against their layer's inputs,
/// and the error of each layer's mean output goes into its bias, which `RoundBiases` puts on its grid where the
/// target's results are integers or scales are exact. Memory does not grow with the number of batches.
///
/// Every layer gets a row in the report. Errors: `pare.pass.102` no calibration, `pare.quantize.101` NaN or infinities
/// in calibration or weights (with the layer), `.102` calibration without a single value, `.103` options out of range
/// (also exact scales with learned rounding, which moves them), `.104` the model is quantized already, `.105` a pattern
/// in `keep_float`, `layer_weights` or `layer_activations` that fits no layer.
template <class WeightObserver = WeightMSE, class ActivationObserver = HistogramMSE>
struct Quantizer {
  ActivationObserver observer = {};          ///< chooses activation ranges; copied for each value watched
  WeightObserver weight_observer = {};       ///< chooses weight scales
  std::vector<std::string> keep_float = {};  ///< layers left float: names, module paths, or patterns with `*` and `?`
  Bits weights = {8};                        ///< 2 to 8; stored in 2, 4 or 8
  /// Layers whose weights get other bits than `weights`, as in `keep_float`: an exact name counts before patterns, of
  /// those the first that fits, and before `keep_float` too. Of tied layers one may stand for all.
  std::vector<std::pair<std::string, Bits>> layer_weights = {};
  Bits activations = {8};  ///< 2 to 8
  /// Layers that read their inputs in other bits than `activations`, found likewise. Values that several layers read
  /// get the most bits that one of them asks for.
  std::vector<std::pair<std::string, Bits>> layer_activations = {};
  Granularity granularity = PerChannel{};  ///< of weight scales
  bool symmetric_weights = true;           ///< zero point 0; affine ones run packed in groups only
  bool exact_scales = false;               ///< nothing is rounded but to integers (`exact_scales.hpp`): 2 to 5 dB less
  bool weight_only = false;                ///< activations stay float, no calibration needed
  Rounding rounding = Rounding::Compensated;
  LearnedRounding learned = {};               ///< of `Rounding::Learned`
  bool correct_bias = true;                   ///< keep the mean of each layer's output over the calibration data
  bool smooth = true;                         ///< `SmoothQuant` before, where linear layers read sequences
  bool judge_ranges = true;                   ///< sequences that linear layers read: the whole range, if it errs less
  const TargetDescription* target = nullptr;  ///< what is quantized and how; null: `onednn_target()`
  std::int64_t max_features = 2400;           ///< layers with more inputs per channel are rounded to nearest: time and
                                              ///< memory of compensated rounding grow with its square
  /// Layers that read the model's inputs stay float where they are at most this share of its multiply-accumulates, and
  /// have no bits of their own: what rounding a picture costs is off in every layer behind. 0: never.
  double float_first_share = 0.015;

  static constexpr std::string_view kName = "Quantizer";

  /// @throws Error `pare.quantize.103`
  void validate() const { validate_quantization(settings()); }
  Preserved run(Model& model, Context& context) { return quantize(model, context, settings()); }

  /// The same with the policies behind one type.
  [[nodiscard]] QuantizationSettings settings() const {
    check_observer<ActivationObserver>();
    check_weight_observer<WeightObserver>();
    return {AnyObserver(observer),
            weight_observer,
            keep_float,
            weights,
            layer_weights,
            activations,
            layer_activations,
            granularity,
            symmetric_weights,
            exact_scales,
            weight_only,
            rounding,
            learned,
            correct_bias,
            smooth,
            judge_ranges,
            target,
            max_features,
            float_first_share};
  }
};

PARE_NAMESPACE_END
