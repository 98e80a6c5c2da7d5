#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

#include "pare/analysis/layer_exchange.hpp"
#include "pare/analysis/output_loss.hpp"
#include "pare/core/progress.hpp"

PARE_NAMESPACE_BEGIN

/// How damage is found.
enum class SensitivityMethod : std::uint8_t {
  Exact,   ///< each layer is replaced on its own and the model run from there on
  Fisher,  ///< to second order, by the Fisher information along each change: a few evaluations for the whole model
};

/// What a sensitivity sweep is run with.
struct SensitivityOptions {
  Batches batches = {};
  SensitivityMethod method = SensitivityMethod::Exact;
  /// Of the exact sweep; empty: `divergence_from` what the reference itself answers.
  OutputLoss loss = {};
  int draws = 4;           ///< of the Fisher method: random signs for each sample; at least 1
  std::uint64_t seed = 0;  ///< of those signs
  /// Of the Fisher method: what the loss is measured from, e.g. the float model's answers, batch by batch. The slope of
  /// the divergence from them is added, since the reference itself differs from them; empty: none.
  BatchOutputs answers = {};
  Replacements around = {};  ///< of the reference: what holds already, e.g. another variant's layers
  Progress progress = {};
  std::function<bool()> cancelled = {};  ///< asked before each layer
};

/// What the outputs of a model lose when one layer's weights are taken from a variant and all others stay.
///
///     Sensitivity({int8}, {{"int4", int4}}, {.batches = calibration, .loss = divergence_from(answers_of_float)})
///
/// The exact sweep (`Exact`) runs each layer's candidates from that layer on (`PrefixReplay`); its damage is
/// `loss(changed) - loss(reference)`, which may be slightly negative. The Fisher method runs the model once forward
/// with each layer's change in its outputs weighted by a variable `e`, and `draws` times backward: the damage is
/// `sum_c p_c (d log p_c / d e)^2 / 2` over the classes c that the model gives probabilities p to, estimated by random
/// signs, which is the Kullback-Leibler divergence to second order (the quadratic form that HAWQ approximates by a
/// trace; Dong et al., 2019), without a diagonal or trace approximation.
class Sensitivity {
 public:
  /// One layer.
  struct Layer {
    std::string name;            ///< node name of its first reader
    std::string weight;          ///< path in the weight table
    std::int64_t weights = 0;    ///< entries
    std::vector<double> damage;  ///< of each variant
  };

  /// @throws Error `pare.analysis.106` without batches or variants, a variant without a layer of the reference or with
  ///         another shape (with the layer), `.107` when the loss is not a number (with the layer), `.108` cancelled
  Sensitivity(const Model& reference, const std::vector<Variant>& variants, const SensitivityOptions& options);

  [[nodiscard]] const std::vector<Layer>& layers() const noexcept { return layers_; }
  [[nodiscard]] const std::vector<std::string>& variants() const noexcept { return variants_; }
  /// The layer of this name. @throws Error `pare.analysis.109` when there is none
  [[nodiscard]] const Layer& layer(std::string_view name) const;
  /// What two changes of different layers cost together beyond what each costs alone, from the derivatives that the
  /// Fisher method has anyway: `sum_c p_c (d log p_c / d e) (d log p_c / d e')`. Negative where one makes up for the
  /// other. 0 after an exact sweep, and for two changes of one layer.
  /// @param layer,other positions in `layers()` @param variant,other_variant in `variants()`
  [[nodiscard]] double interaction(std::size_t layer, std::size_t variant, std::size_t other,
                                   std::size_t other_variant) const;
  /// What the sweep took, in runs of the reference over the batches (wall time).
  [[nodiscard]] double evaluations() const noexcept { return evaluations_; }
  /// The same in multiply-accumulates: what the sweep computed by what one run computes. An exact sweep runs the model
  /// once (twice where no loss is given, for its answers) and each candidate from its layer on: over layers of equal
  /// cost half of layers times runs, and one and a half. Of the Fisher method a backward pass counts as two runs.
  [[nodiscard]] double work() const noexcept { return work_; }
  /// A line for each layer, most damage per weight first.
  [[nodiscard]] std::string text() const;

 private:
  using Changes = std::vector<std::vector<Replacements>>;  // of each variant, each layer
  void exact(const Model& reference, const Changes& changes, const SensitivityOptions& options);
  void fisher(const Model& reference, const LayerExchange& exchange, const Changes& changes,
              const SensitivityOptions& options);

  std::vector<std::string> variants_;
  std::vector<Layer> layers_;
  std::vector<double> interactions_;  // of each variant and layer with each variant and layer; empty: none known
  double evaluations_ = 0, work_ = 0;
};

/// Spearman's rank correlation of two series of the same length; ties share their mean rank.
[[nodiscard]] double rank_correlation(const std::vector<double>& a, const std::vector<double>& b);

std::ostream& operator<<(std::ostream& stream, const Sensitivity& sensitivity);

PARE_NAMESPACE_END
