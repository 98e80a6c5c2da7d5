#pragma once

#include <optional>
#include <string>
#include <vector>

#include "graph/features.hpp"
#include "graph/frontier.hpp"
#include "pare/core/qparams.hpp"
#include "pare/graph/fusion.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// A layer whose weight can be rounded anew: the float region, the quantized one, and what lies between the table and
/// the anchor.
struct LearnedLayer {
  FusedRegion original;   ///< in the float graph
  FusedRegion quantized;  ///< in the graph with fake-quantize nodes
  MatrixForm form;
  IntegerGrid grid;
  NodeId quantizer = kNoNode;  ///< the weight's fake-quantize
  std::vector<NodeId> behind;  ///< that node and those after it, up to the anchor
  std::string weight, scale;   ///< paths
  std::string bias;            ///< path; empty: none of its own
};

/// The layers of a quantized model whose weights have a symmetric scale for each output channel, are read once, and
/// have at most `max_features` inputs per output channel, in order of execution.
/// @param original the float model that `model` was made from: the same node and value ids
std::vector<LearnedLayer> find_learned_layers(const Model& original, const Model& model, std::int64_t max_features);

/// What a layer's weights have to make up for: moments of its inputs as they are quantized, and of what its outputs
/// lack when its float weights read them.
struct LayerError {
  at::Tensor covariance;  ///< of the inputs, `[groups, features, features]` double
  at::Tensor mean;        ///< of the inputs, `[groups, features]` double
  at::Tensor lack;        ///< covariance of lack and inputs, `[groups, outputs, features]` double
  at::Tensor mean_lack;   ///< `[groups, outputs]` double
};

/// @param limit samples of a batch @pre both frontiers stand right before the layer's anchor
LayerError observe_error(const LearnedLayer& layer, const at::Tensor& rows, const Frontier& original,
                         const Frontier& quantized, std::int64_t limit);

PARE_NAMESPACE_END
