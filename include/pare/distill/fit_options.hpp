#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "pare/core/literals.hpp"
#include "pare/core/log.hpp"
#include "pare/core/progress.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// How a Model is trained.
struct FitOptions {
  enum class Optimizer : std::uint8_t { AdamW, Sgd };
  enum class Decay : std::uint8_t { Constant, Linear, Cosine };

  std::int64_t epochs = 3;
  std::int64_t steps = 0;  ///< optimizer steps at most; 0: as many as the epochs have
  Optimizer optimizer = Optimizer::AdamW;
  double rate = 1e-3;           ///< at its highest
  double weight_decay = 0.01;   ///< of weights with two axes and more; biases and norms do not decay
  double momentum = 0.9;        ///< of Sgd, Nesterov's
  Decay decay = Decay::Cosine;  ///< from the end of the warm-up to 0 at the last step
  Ratio warm_up = {0.05};       ///< share of the steps in which the rate rises
  double clip = 1.0;            ///< largest norm of all gradients together; 0: any
  std::int64_t accumulate = 1;  ///< batches whose gradients make one step
  bool mixed = false;  ///< forward and backward in bf16 where LibTorch's autocast does so; weights stay float32
  bool batch_statistics =
      true;                 ///< training mode; off: evaluation mode, so that batch norms and dropout stay as they are
  bool keep_zeros = false;  ///< weights that are zero stay zero: a sparse model stays sparse

  /// Called after every epoch in evaluation mode, larger is better, finite; the best Model is what remains.
  std::function<double(const Model&)> judge = {};
  std::int64_t patience = 0;  ///< epochs without a better judgement after which training stops; 0: none

  /// A file to resume from where it is there, written as the training goes on. Empty: none.
  std::string checkpoint = {};
  std::int64_t checkpoint_every = 200;  ///< steps; it is written after every epoch too
  std::uint64_t seed = 0;               ///< LibTorch's random state while training: dropout, augmentation
  Log log = {};
  Progress progress = {};

  /// @throws Error `pare.distill.120` for an option out of range
  void validate() const;
};

PARE_NAMESPACE_END
