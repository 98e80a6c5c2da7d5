#pragma once

#include <optional>
#include <vector>

#include "graph/features.hpp"
#include "pare/numerics/gram.hpp"
#include "pare/pass/context.hpp"
#include "pare/quantize/quantization_settings.hpp"
#include "sites.hpp"

PARE_NAMESPACE_BEGIN

/// What one sweep over the calibration batches found.
struct Calibration {
  std::vector<QParams> sites;                    ///< parallel to `Sites::sites`
  std::vector<std::optional<MatrixForm>> forms;  ///< parallel to `Sites::layers`; set where moments were gathered
  std::vector<Gram> moments;                     ///< likewise, of the layer's input
};

/// Runs the float model over the calibration batches once.
/// @throws Error `pare.quantize.101` for NaN or infinities, with the layer; `.102` when there was no value to see
Calibration calibrate(const Model& model, Context& context, const Sites& sites, const QuantizationSettings& settings);

PARE_NAMESPACE_END
