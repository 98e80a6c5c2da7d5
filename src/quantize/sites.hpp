#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pare/core/qparams.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/graph/model.hpp"
#include "pare/graph/target.hpp"

PARE_NAMESPACE_BEGIN

/// How a region will compute.
enum class Arithmetic : std::uint8_t { Float, WeightOnly, Integer };

/// A region and what becomes of it.
struct Layer {
  FusedRegion region;
  Arithmetic arithmetic = Arithmetic::Float;
  std::string reason;                          ///< why it stays float, or float in part
  std::optional<std::size_t> input_site = {};  ///< of integer layers: index of the site that the first input is in
  bool integers_only = false;                  ///< its kernel cannot write floats
};

/// Values that share one scale and zero point: results of regions, norms or inputs of the model, before the ops that
/// only move their elements.
struct Site {
  std::vector<ValueId> values;
  IntegerGrid grid;
};

/// Where a model is quantized.
struct Sites {
  std::vector<Layer> layers;
  std::vector<Site> sites;
  std::unordered_map<std::size_t, std::size_t> site_of;  ///< index of a value -> index of its site
  std::vector<Use> integer_uses;                         ///< of values in sites: those that want the integers
};

/// What decides it.
struct SiteRequest {
  std::vector<std::string> keep_float;
  std::vector<std::pair<std::string, Bits>> layer_weights;
  const TargetDescription& target;
  Bits activations;
  const std::vector<std::pair<std::string, Bits>>& layer_activations;
  bool weight_only = false;
  double float_first_share = 0.0;  ///< as in `Quantizer`
};

/// @throws Error `pare.quantize.105` for a pattern in `keep_float`, `layer_weights` or `layer_activations` that fits no
/// layer
Sites find_sites(const Model& model, const SiteRequest& request);

PARE_NAMESPACE_END
