#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pare/analysis/prefix_replay.hpp"
#include "pare/graph/fusion.hpp"

PARE_NAMESPACE_BEGIN

/// Something that may be done to any layer, as a whole model in which it was done to every one: quantized to 4 bits,
/// quantized with another observer, left float, half of its weights zero.
struct Variant {
  std::string name;  ///< e.g. `int4`
  Model model;       ///< with layers of the same names and shapes as the reference
};

/// The layers of a model, and what takes their place when they are taken from another model with the same layers.
///
/// Layers are weights: those that read the same one are one layer, named after the first.
class LayerExchange {
 public:
  /// One layer.
  struct Layer {
    std::string name;          ///< node name of its first reader
    std::string weight;        ///< path in the weight table
    std::int64_t entries = 0;  ///< of that weight
    std::vector<NodeId> readers;
  };

  /// @param model must outlive the exchange
  explicit LayerExchange(const Model& model);
  [[nodiscard]] const std::vector<Layer>& layers() const noexcept { return layers_; }
  /// For each layer, what the model reads when this layer alone comes from the variant: the weight behind fake-quantize
  /// nodes and reshapes, the bias, and the layer's switch where the model has one (`with_float_switches`).
  /// @throws Error `pare.analysis.106` when the variant has no such layer, one of another shape, or one whose batch
  ///         norm is folded in one of the two alone
  [[nodiscard]] std::vector<Replacements> taken_from(const Variant& variant) const;

 private:
  const Model& model_;
  std::vector<Layer> layers_;
  std::vector<std::vector<FusedRegion>> regions_;  // of each layer
};

PARE_NAMESPACE_END
