#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "pare/distill/fit_options.hpp"
#include "pare/distill/training_data.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// What a training did.
struct FitResult {
  std::int64_t steps = 0;           ///< optimizer steps, those before an interruption included
  std::int64_t epochs = 0;          ///< finished
  double first_loss = 0;            ///< mean over the first epoch (or what there was of it)
  double last_loss = 0;             ///< mean over the last one
  std::optional<double> best = {};  ///< the best judgement
  std::optional<std::int64_t> best_epoch = {};
  bool stopped_early = false;
  bool resumed = false;
};

/// The loss of one batch; it runs the Model itself.
using StepLoss = std::function<at::Tensor(const Batch& batch)>;

/// Trains a Model's parameters (those that require gradients), in place: `detach_weights()` first where the live module
/// shall not be trained along.
///
///     pare::fit(model, pare::TrainingData::shuffled({x, y}, 64),
///               [&](const pare::Batch& batch) { return at::cross_entropy_loss(model(batch[0]), batch[1]); },
///               {.epochs = 10, .checkpoint = "run/student.train"});
///
/// With a checkpoint, a training that is stopped at any moment, by a kill too, goes on from the last one when it is
/// called again, and ends bit for bit where it would have ended: weights, moments, random state and place in the data
/// are in it, and the file is replaced whole. LibTorch's random state is the caller's again afterwards; the Model is
/// left in evaluation mode.
///
/// A loss, a gradient or a weight that is not finite stops the training, and the error says which batch it was. However
/// a training ends early, by what the loss, the data or the judge throw too, the Model goes back to its last good state
/// (the start of the epoch, the last checkpoint, or the best judged) and to the mode that it was in.
///
/// @param also further tensors to train: what the loss itself learns
/// @throws Error `pare.distill.120` an option out of range, `.122` an epoch without a batch, `.123` nothing that has
///         gradients, `.124` a judgement that is not finite, `.125` a loss that is no scalar or has no gradients,
///         `.131` a loss, gradient or weight that is not finite, `.132` a checkpoint of another training, `.133` one
///         that is no training's; `pare.graph.105` a Model that cannot train; as `SafeTensors` for a checkpoint that is
///         damaged; `pare.checkpoint.121` the file cannot be written, which is looked at before the first step too
FitResult fit(Model& model, const TrainingData& data, const StepLoss& loss, const FitOptions& options = {},
              std::vector<at::Tensor> also = {});

PARE_NAMESPACE_END
