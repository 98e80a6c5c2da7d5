#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <unordered_map>

#include "fake_quantizer.hpp"
#include "pare/quantize/quantization_settings.hpp"
#include "simulated_forward.hpp"

PARE_NAMESPACE_BEGIN

/// Follows a forward that has no graph: a call that reads a parameter as its weight is that parameter's layer.
class ParameterFollower final : public SimulatedForward {
 public:
  ParameterFollower(const torch::nn::Module& module, QuantizationSettings settings, const QatOptions& options);

  void forward_call(const c10::OperatorHandle& op, torch::jit::Stack& stack) override;
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> range_parameters() const override;
  [[nodiscard]] std::map<std::string, at::Tensor> state() const override;
  void load_state(const std::map<std::string, at::Tensor>& state) override;
  /// While on, layers that are reached for the first time get their ranges from what they see.
  void discover(bool on) noexcept { discovers_ = on; }

 private:
  struct Layer {
    std::string path;    // of the module that holds the weight
    std::string name;    // the weight's own
    std::string prefix;  // of its quantizers' names: `fc` for `fc.weight`, otherwise the weight's name
    at::Tensor parameter;
    bool kept_float = false;
    bool per_channel = true;
    std::unique_ptr<FakeQuantizer> weight, input;
    std::int64_t steps = 0;
    at::Tensor transposed;  // what `t` made of the weight last, for products that read it
  };
  void round_weight(Layer& layer, c10::IValue& weight);
  void round_input(Layer& layer, c10::IValue& input);
  [[nodiscard]] bool moves(const Layer& layer) const;
  [[nodiscard]] std::unique_ptr<FakeQuantizer> weight_quantizer(const Layer& layer) const;
  [[nodiscard]] std::unique_ptr<FakeQuantizer> input_quantizer(const Layer& layer, const at::Tensor& input) const;

  const torch::nn::Module& module_;
  QuantizationSettings settings_;
  QatOptions options_;
  std::unordered_map<const c10::TensorImpl*, Layer> layers_;  // by weight
  std::unordered_map<const c10::TensorImpl*, Layer*> transposed_;
  bool discovers_ = true;
};

PARE_NAMESPACE_END
