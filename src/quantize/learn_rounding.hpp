#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "pare/pass/context.hpp"
#include "pare/quantize/quantization_settings.hpp"

PARE_NAMESPACE_BEGIN

/// Whether `learn_rounding` will come: it takes weights that are symmetric and have a scale for each output channel.
bool learns_rounding(const QuantizationSettings& settings);

/// Rounds the weights of a quantized model anew, layer by layer and then all together.
/// @param original the float model that `model` was made from: the same node and value ids
/// @return what was done, by the index of the layer's anchor; layers that are not in it were left as they were
std::unordered_map<std::size_t, std::string> learn_rounding(Model& model, const Model& original, Context& context,
                                                            const LearnedRounding& options, std::int64_t max_features);

PARE_NAMESPACE_END
