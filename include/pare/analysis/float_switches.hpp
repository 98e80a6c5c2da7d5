#pragma once

#include <string_view>

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// How the weight of a layer's switch ends: `<layer>.reads_float`.
inline constexpr std::string_view kFloatSwitch = ".reads_float";

/// A quantized model whose layers can be made float one by one, by values alone: each layer that reads integers gets a
/// switch, an entry of the weight table (a bool, false), that lets it read what was there before the fake-quantize.
///
/// `LayerExchange::taken_from` turns a layer's switch on where the variant's layer is float, so that a sweep measures
/// what leaving the layer float would really do. The model answers as before.
[[nodiscard]] Model with_float_switches(const Model& quantized);

PARE_NAMESPACE_END
