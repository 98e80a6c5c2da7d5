#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graph/features.hpp"
#include "pare/analysis/channel_groups.hpp"
#include "pare/numerics/gram.hpp"
#include "pare/prune/pruning_settings.hpp"

PARE_NAMESPACE_BEGIN

/// A layer that reads channels through a matrix, in one group.
struct Reader {
  FusedRegion region;
  MatrixForm form;
  std::string path;         ///< of the weight
  std::int64_t axis = 1;    ///< of its inputs
  std::int64_t window = 1;  ///< features of an input channel
  Gram inputs;              ///< of its features, where they are few enough
  at::Tensor sensitivity;   ///< `[outputs]`: squared gradient of a random projection of the model's output
  at::Tensor mean_square, mean_magnitude, zeros;  ///< `[channels]` of its input
  double batches = 0;
};

/// The readers of a model.
std::vector<Reader> readers_of(const Graph& graph);

/// What the calibration data say: second moments and sensitivities of the readers' layers.
void observe_inputs(const Model& model, const Batches& calibration, std::int64_t max_features, std::uint64_t seed,
                    std::vector<Reader>& readers);

/// Gradients of the loss: mean, and mean of squares, for each parameter.
struct Gradients {
  std::map<std::string, at::Tensor> mean, square;
};
Gradients gradients_of(const Model& model, const Batches& calibration, const ImportanceLoss& loss);

PARE_NAMESPACE_END
