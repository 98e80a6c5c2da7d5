#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "graph/features.hpp"
#include "pare/numerics/gram.hpp"
#include "pare/prune/sparsity_settings.hpp"

PARE_NAMESPACE_BEGIN

/// One step of a layer's path from dense to sparse.
struct SparsityStep {
  at::Tensor mask;  ///< `[rows, features]` bool
  std::int64_t kept = 0;
  double damage = 0;  ///< done to the model's outputs with only this layer pruned; where measured
};

/// A layer that can be pruned.
struct SparseLayer {
  FusedRegion region;
  MatrixForm form;
  std::int64_t patch = 0;  ///< a transposed convolution whose patches do not overlap: pixels of one; its rows are an
                           ///< output channel's pixels
  std::string path;        ///< of the weight
  std::string name;        ///< of the anchor
  bool solved = false;     ///< its weights are solved anew: inputs are watched
  Gram moments;            ///< of its inputs in the dense model, where wanted
  at::Tensor gradient;     ///< `[rows, features]`, where wanted
  std::vector<SparsityStep> steps;
  std::size_t chosen = 0;
  bool exact = true;  ///< solved row by row

  /// The table's weight as `[rows, features]`, and back; the features of an input, `[groups, samples, features]`.
  [[nodiscard]] at::Tensor to_rows(const at::Tensor& weight) const;
  [[nodiscard]] at::Tensor from_rows(const at::Tensor& rows, at::IntArrayRef sizes) const;
  [[nodiscard]] at::Tensor features_of(const at::Tensor& input, std::int64_t limit) const;

  [[nodiscard]] std::int64_t rows() const { return form.groups * form.outputs; }
  [[nodiscard]] std::int64_t numel() const { return rows() * form.features; }
  /// Positions of a kernel: features that share an input channel.
  [[nodiscard]] std::int64_t taps() const {
    std::int64_t count = 1;
    for (const auto size : form.kernel) count *= size;
    return count;
  }
};

/// The layers that can be pruned; the others get a row in the report.
/// @throws Error `pare.prune.202` for a `keep_dense` pattern that fits no layer, `.204` when none is left
std::vector<SparseLayer> find_sparse_layers(const Model& model, Context& context, const SparsitySettings& settings);

/// Mean gradients of the layers' weights over the calibration batches.
void gather_gradients(const Model& model, Context& context, const SparsitySettings& settings,
                      std::vector<SparseLayer>& layers);

/// The calibration batches in memory, and how many samples of a layer's input to take of each.
struct CalibrationBatches {
  std::vector<Batch> batches;
  [[nodiscard]] std::int64_t sample_limit(const MatrixForm& form) const;
};

/// What the criterion says of a layer's weights. @throws Error `pare.prune.203` when that is no finite number for each
at::Tensor saliency_of(const SparsitySettings& settings, const SparseLayer& layer, const PrunableWeight& view);

/// What other weights of a layer, `[rows, features]`, do to the model's outputs.
using Damage = std::function<double(const SparseLayer&, const at::Tensor&)>;

/// Fills in the path of masks of one layer, at the shares of weights kept (descending), and the damage each does.
/// @param damage may be empty: not measured
void find_path(const Model& model, const SparsitySettings& settings, SparseLayer& layer,
               const std::vector<double>& kept_shares, const Damage& damage);

/// Chooses a step for each layer so that at most `budget` weights are kept in all.
void allocate(std::vector<SparseLayer>& layers, std::int64_t budget);

/// Solves and writes the layers' weights, in the order of execution.
void write_weights(Model& model, Context& context, const SparsitySettings& settings,
                   const CalibrationBatches& calibration, std::vector<SparseLayer>& layers);

PARE_NAMESPACE_END
