#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pare/prune/sparse_gpt.hpp"
#include "pare/prune/sparsity_settings.hpp"

PARE_NAMESPACE_BEGIN

/// Unstructured and semi-structured pruning: sets single weights, N of M, or blocks to zero, and lets the others make
/// up for them.
///
///     pare::Sparsifier{.sparsity = 80_pct}                                          // needs calibration
///     pare::Sparsifier{.importance = pare::Magnitude{}, .sparsity = 50_pct, .update_weights = false,
///                      .allocation = pare::SparsityAllocation::Global}               // does not
///     pare::Sparsifier{.pattern = pare::NofM{2, 4}}
///
/// Before: a float model. After: the same graph; weights of convolutions and linear layers (grouped ones included)
/// carry zeros. Layers are taken in the order of execution:
/// - a path of masks, from dense to sparse, is found for each layer by the criterion; the weights that stay are solved
///   anew at every step (`OptimalBrainSurgeon`);
/// - with `SparsityAllocation::Measured` the model is run with each layer at each sparsity, and the combination
///   with the smallest sum of damages (squared error over squared outputs) that reaches the target is taken;
/// - then each layer's weights are solved once more, so that the layer computes from its inputs as they are now, behind
///   pruned layers, what the dense layer computed from its own. What is left of the mean goes into the layer's bias or
///   its batch norm's running mean.
///
/// Zeros in the weights are the mask: `Masks::of` reads it back, `SparseTraining` keeps it through a training,
/// quantizing leaves it alone, `commit` writes it into the live module. Weights that are zero already stay so; run
/// again with a higher sparsity, the pass goes on from there.
///
/// Zeros make a model smaller to store, and faster only where the target computes with them: the report says so.
/// Errors: `pare.prune.201` an option out of range, `.202` a `keep_dense` pattern that fits no layer, `.203` a
/// criterion that returns NaN or another shape, a `loss` that fails, is no scalar or has no gradient, or calibration
/// batches without samples, or on which the model gives NaN or infinities, `.204` no layer that could be pruned,
/// `pare.pass.102` no calibration.
template <class Importance = SparseGPT>
struct Sparsifier {
  Importance importance = {};
  Ratio sparsity = {0.5};  ///< share of the prunable weights, 0 to 1 exclusive; `NofM` has its own
  SparsityPattern pattern = Unstructured{};
  SparsityAllocation allocation = SparsityAllocation::Measured;
  bool update_weights = true;                ///< let the weights that stay make up for the others; needs calibration
  std::vector<std::string> keep_dense = {};  ///< layers left alone: names, module paths, or patterns with `*` and `?`
  PruningLoss loss = {};             ///< for criteria that need gradients; empty: cross-entropy with the model's
                                     ///< own answer, or half the squared outputs where they are no classes
  std::int64_t max_features = 2400;  ///< layers with more inputs are not solved: time and memory grow with its
                                     ///< square
  std::int64_t probe_samples = 256;  ///< calibration samples that damage is measured on

  static constexpr std::string_view kName = "Sparsifier";

  /// @throws Error `pare.prune.201`
  void validate() const { validate_sparsity(settings()); }
  Preserved run(Model& model, Context& context) { return sparsify(model, context, settings()); }

 private:
  [[nodiscard]] SparsitySettings settings() const {
    return {AnyWeightImportance::of(importance),
            sparsity,
            pattern,
            allocation,
            update_weights,
            keep_dense,
            loss,
            max_features,
            probe_samples};
  }
};

PARE_NAMESPACE_END
