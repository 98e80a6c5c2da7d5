#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "batch_norm_fold.hpp"
#include "fake_quantizer.hpp"
#include "pare/core/batches.hpp"
#include "pare/graph/interpreter.hpp"
#include "pare/pass/report.hpp"
#include "pare/quantize/qat_options.hpp"
#include "pare/quantize/quantization_settings.hpp"

PARE_NAMESPACE_BEGIN

/// @throws Error `pare.quantize.110`
void validate_qat(const QatOptions& options, const QuantizationSettings& settings);

/// A float Model, the quantized Model that the post-training ladder makes of it, and what trains between the two: the
/// state that `QuantizationAwareTraining` and `Simulation` share.
class TrainableQuantization {
 public:
  using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

  /// @param model float; its tensors are the ones trained
  TrainableQuantization(Model model, const QuantizationSettings& settings, const Batches& calibration,
                        const QatOptions& options);

  [[nodiscard]] std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs);
  void train(bool on);
  [[nodiscard]] bool is_training() const noexcept { return training_; }
  /// One more forward in training mode; `run` does it by itself.
  void begin_step();
  void freeze_batch_norm() noexcept { batch_norm_frozen_ = true; }
  void reestimate_batch_norm(const Batches& batches);

  [[nodiscard]] NamedTensors model_parameters() const { return float_.named_parameters(); }
  [[nodiscard]] NamedTensors range_parameters() const;
  [[nodiscard]] Model convert() const;
  [[nodiscard]] Model convert_average() const;
  [[nodiscard]] NamedTensors parameters() const;
  [[nodiscard]] std::map<std::string, at::Tensor> state() const;
  void load_state(const std::map<std::string, at::Tensor>& state);
  [[nodiscard]] const Report& report() const noexcept { return report_; }

  // For a forward that is not replayed but watched: its calls are nodes of the float graph.

  [[nodiscard]] const Model& model() const noexcept { return float_; }
  /// The quantized graph, which has the float one's nodes under the same ids.
  [[nodiscard]] const Graph& graph() const { return placed_.graph(); }
  void set_training(bool on) noexcept { training_ = on; }
  /// Whether a value of the quantized graph is a value or weight of the float one, rounded.
  [[nodiscard]] bool is_rounded(ValueId placed) const;
  /// A value of the quantized graph from the one of the float graph that it stands for. Weights in front of a batch
  /// norm are rounded as they will be when folded, and given back unfolded.
  [[nodiscard]] at::Tensor simulate(ValueId placed, const at::Tensor& value);
  /// The part of `state` that the module does not hold.
  [[nodiscard]] std::map<std::string, at::Tensor> range_state() const;
  void load_range_state(const std::map<std::string, at::Tensor>& state);

 private:
  void make_quantizers(const QuantizationSettings& settings);
  void make_live();
  [[nodiscard]] bool batch_norm_is_live() const;
  [[nodiscard]] Weights weights(bool live) const;
  [[nodiscard]] std::vector<NodeId> inserted_before(ValueId placed) const;
  [[nodiscard]] at::Tensor fake_quantize(NodeId node, const at::Tensor& values, bool unfold);
  void mark_parameters() const;
  void update_average() const;

  Model float_;   // parameters and statistics as they train, batch norms in place
  Model placed_;  // folded, with fake-quantize nodes
  Model live_;    // the same with the batch norms put back behind their layers
  std::unique_ptr<Interpreter> run_placed_, run_live_;
  std::vector<BatchNormFold> folds_;
  std::vector<FakeQuantizer> quantizers_;
  std::unordered_map<std::size_t, std::size_t> of_node_;       // fake-quantize node -> quantizer
  std::unordered_map<std::size_t, std::size_t> fold_of_node_;  // fake-quantize node of a weight -> its fold
  std::unordered_map<std::size_t, std::size_t> site_of_;       // value -> site, of the folded float graph
  AnyWeightObserver weight_observer_;
  QatOptions options_;
  Report report_;
  // By name, of parameters and range parameters; brought up to date when a step begins or somebody looks.
  mutable std::map<std::string, at::Tensor> average_;
  mutable at::Tensor sums_;  // of the parameters that were last averaged: LibTorch's SGD leaves their versions alone
  std::int64_t steps_ = 0;
  std::optional<double> norm_momentum_;  // while statistics are taken anew
  bool training_ = false;
  bool batch_norm_frozen_ = false;
};

PARE_NAMESPACE_END
