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
class LayerError {
 public:
  /// Gathers what the frontiers hold: every other batch on one side, so that one side can judge what the other chose.
  /// @param rows float weights @param limit samples of a batch @pre both stand right before the layer's anchor
  LayerError(const LearnedLayer& layer, const at::Tensor& rows, const Frontier& original, const Frontier& quantized,
             std::int64_t limit);

  /// The change of the float weights that makes up for the lack, as far as it does so on batches it was not solved on:
  /// ridge regression, its strength chosen by cross-validation. `[groups * outputs, features]` float; zeros where no
  /// strength helps.
  [[nodiscard]] at::Tensor change() const;
  /// Covariance of the inputs (second moments for a layer without a bias), shrunk towards its diagonal as far as the
  /// two sides disagree: `[groups, features, features]` double (Ledoit and Wolf, 2004).
  [[nodiscard]] at::Tensor covariance() const;
  /// What the bias has to gain when the weights change by `change`: `[groups * outputs]` double.
  [[nodiscard]] at::Tensor bias_shift(const at::Tensor& change) const;

 private:
  struct Moments {
    at::Tensor covariance;  // of the inputs, [groups, features, features] double
    at::Tensor mean;        // of the inputs, [groups, features] double
    at::Tensor lack;        // of lack and inputs, [groups, outputs, features] double
    at::Tensor mean_lack;   // [groups, outputs] double
  };
  struct Sums : Moments {
    double samples = 0;
    void add(const at::Tensor& inputs, const at::Tensor& lacking);
    [[nodiscard]] Moments moments(bool centred) const;
  };
  [[nodiscard]] double cross_error(double ridge) const;

  Sums sides_[2];
  Moments side_[2], all_;
};

PARE_NAMESPACE_END
