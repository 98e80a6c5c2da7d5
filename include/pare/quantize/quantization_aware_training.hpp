#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pare/core/batches.hpp"
#include "pare/quantize/qat_options.hpp"
#include "pare/quantize/quantizer.hpp"

PARE_NAMESPACE_BEGIN

class TrainableQuantization;

/// Quantization-aware training of a captured Model: differentiable, trained in the user's own loop, and converted to
/// the integer Model that computes the same, bit for bit.
///
///     pare::QuantizationAwareTraining qat{model, pare::Quantizer{.weights = 4_bits, .activations = 4_bits}, batches};
///     torch::optim::SGD optimizer(qat.parameters(), 0.01);
///     qat.train();
///     for (auto& batch : loader) { optimizer.zero_grad(); loss(qat(batch.data), batch.target).backward(); ... }
///     auto fast = pare::compile(qat.convert());
///
/// What is rounded, and where, is what `Quantizer` chooses: batch norms folded, attention written out, regions rounded
/// once at their output. Ranges start from its calibration and then train (`QatOptions`). The model gets weights of its
/// own; `model` stays as it is.
///
/// Batch norms train on the batches' own statistics, behind a layer whose weights are rounded as they will be when
/// folded: `round(w * gamma / sigma) * sigma / gamma`, sigma the running one (Krishnamoorthi, "Quantizing deep
/// convolutional networks", 2018, section 3.2.2: corrected, so that the statistics are those of the unfolded layer). In
/// evaluation mode, and once they are frozen, they are folded.
class QuantizationAwareTraining {
 public:
  /// @param calibration batches to start ranges from, as for `Quantizer`
  /// @throws Error as `Quantizer`, and `pare.quantize.110` for a `QatOptions` out of range
  template <class WeightObserver, class ActivationObserver>
  QuantizationAwareTraining(const Model& model, const Quantizer<WeightObserver, ActivationObserver>& quantizer,
                            const Batches& calibration, const QatOptions& options = {})
      : QuantizationAwareTraining(model, quantizer.settings(), calibration, options) {}
  QuantizationAwareTraining(const Model& model, const QuantizationSettings& settings, const Batches& calibration,
                            const QatOptions& options = {});
  QuantizationAwareTraining(QuantizationAwareTraining&&) noexcept;
  QuantizationAwareTraining& operator=(QuantizationAwareTraining&&) noexcept;
  ~QuantizationAwareTraining();

  /// The forward, differentiable. In training mode a call is a step.
  /// @throws Error as `Model::run`, and `pare.quantize.111` for a scale that has become NaN, with the layer
  [[nodiscard]] std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs);
  template <class... Tensors>
  requires(std::convertible_to<const Tensors&, at::Tensor>&&...) [[nodiscard]] at::Tensor operator()(
      const Tensors&... inputs) {
    return only(run(std::vector<at::Tensor>{inputs...}));
  }

  /// @throws Error `pare.graph.105` when the module was captured in evaluation mode only
  void train(bool on = true);
  void eval() { train(false); }
  [[nodiscard]] bool is_training() const noexcept;

  /// Everything that learns: the model's parameters under their paths, and the scales (`<layer>.fake_quantize.scale`).
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> named_parameters() const;
  [[nodiscard]] std::vector<at::Tensor> parameters() const;
  /// Of these the model's own; weight decay is for them alone.
  [[nodiscard]] std::vector<at::Tensor> model_parameters() const;
  /// And the learned scales, zero points and clips.
  [[nodiscard]] std::vector<at::Tensor> range_parameters() const;

  /// From here on batch norms are folded with the statistics they have.
  void freeze_batch_norm();
  /// Takes the statistics of batch norms anew, as the mean over these batches.
  void reestimate_batch_norm(const Batches& batches);

  /// The integer Model, in evaluation mode: fake-quantize nodes with the scales learned, batch norms folded. Its
  /// outputs are those of `run` in evaluation mode, bit for bit.
  [[nodiscard]] Model convert() const;
  /// The same from the moving averages of the parameters. @throws Error `pare.quantize.112` when none are kept
  [[nodiscard]] Model convert_average() const;

  /// Every tensor of the training: parameters, statistics, ranges, averages, the number of steps.
  [[nodiscard]] std::map<std::string, at::Tensor> state() const;
  /// Puts a state back: training goes on as it would have. Checked first; on an error nothing has changed.
  /// @throws Error `pare.quantize.113` for tensors that are missing, left over, or of another shape
  void load_state(const std::map<std::string, at::Tensor>& state);
  /// The same as a safetensors file. @throws Error also as `save_safetensors` and `SafeTensors`
  void save(const std::string& path) const;
  void resume(const std::string& path);

  /// What became of every layer.
  [[nodiscard]] const Report& report() const noexcept;

 private:
  static at::Tensor only(std::vector<at::Tensor> outputs);

  std::unique_ptr<TrainableQuantization> training_;
};

PARE_NAMESPACE_END
