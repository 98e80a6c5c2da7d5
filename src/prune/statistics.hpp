#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "graph/features.hpp"
#include "pare/analysis/channel_groups.hpp"
#include "pare/numerics/gram.hpp"
#include "pare/prune/pruning_settings.hpp"

PARE_NAMESPACE_BEGIN

/// The features that layers read: one of these for all layers that read the same ones.
struct Features {
  Gram moments;
  at::Tensor inverse = {};  ///< of their damped covariance, `[features, features]` float: made when first asked for
};

/// A layer that reads channels through a matrix, in one group.
struct Reader {
  FusedRegion region;
  MatrixForm form;
  std::string path;                            ///< of the weight
  std::int64_t axis = 1;                       ///< of its inputs
  std::int64_t window = 1;                     ///< features of an input channel
  std::shared_ptr<Features> features = {};     ///< where they are few enough
  at::Tensor sensitivity = {};                 ///< `[outputs]`: squared gradient of a random projection of the output
  at::Tensor mean_square = {};                 ///< `[channels]` of its input; not where there are `features`
  at::Tensor mean_magnitude = {}, zeros = {};  ///< the same, for criteria that look at activations
  double batches = 0;                          ///< that it was seen in
};

/// The readers of a model.
std::vector<Reader> readers_of(const Graph& graph);

/// Statistics of the activations that each layer reads.
void observe_activations(const Model& model, const Batches& calibration, std::vector<Reader>& readers);

/// What `LeastSquares` asks for: second moments of the layers' inputs, of up to `max_features`, and how much each
/// output matters.
void observe_layers(const Model& model, const Batches& calibration, std::int64_t max_features, std::uint64_t seed,
                    std::vector<Reader>& readers);

/// Positions to take from each batch, so that all batches together have about `samples`, and enough for this many
/// features.
std::int64_t samples_of_batch(const Batches& calibration, std::int64_t samples, std::int64_t features);

/// Gradients of the loss: mean, and mean of squares, for each parameter.
struct Gradients {
  std::map<std::string, at::Tensor> mean, square;
};
Gradients gradients_of(const Model& model, const Batches& calibration, const ImportanceLoss& loss);

PARE_NAMESPACE_END
