#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "calibration.hpp"

PARE_NAMESPACE_BEGIN

/// The operator that stands for a weight rounded with a scale for each channel.
inline constexpr std::string_view kPerChannel = "aten::fake_quantize_per_channel_affine";

/// Rounds weights, corrects biases, and puts fake-quantize nodes between the weight table and the layers.
class WeightQuantizer {
 public:
  WeightQuantizer(Model& model, Context& context, const QuantizationSettings& settings)
      : model_(model), context_(context), settings_(settings) {}

  /// @param form,moments of the layer's input, or null without calibration
  /// @param input_scale of the integers that the layer reads, or nothing where it reads numbers
  /// @return what was done, for the report
  /// @throws Error `pare.quantize.101` for a weight with NaN or infinities
  std::string quantize(const Layer& layer, const MatrixForm* form, const Gram* moments,
                       std::optional<double> input_scale);

 private:
  struct Placed {
    ValueId value;  // after fake-quantize
    std::string how;
  };
  struct Way {
    std::int64_t axis = 0;
    bool per_tensor = false;
    const MatrixForm* form = nullptr;
    const Gram* moments = nullptr;
    at::Tensor smallest = {};  // scales that a channel must not go below
  };
  const Placed& place(ValueId weight, const Way& way);
  ValueId place_groups(ValueId weight, std::int64_t axis, std::int64_t rows, ValueId scale, ValueId zero_point,
                       const std::string& label);
  std::string recurrent(const Layer& layer);
  void correct_bias(const Layer& layer, const MatrixForm& form, const Gram& moments, const at::Tensor& before);
  [[nodiscard]] at::Tensor smallest_scale(const Layer& layer, double input_scale) const;
  [[nodiscard]] Bits bits_of(NodeId layer) const;
  [[nodiscard]] IntegerGrid grid() const;

  Model& model_;
  Context& context_;
  const QuantizationSettings& settings_;
  Bits bits_;                                                      // of the layer at hand
  std::map<std::pair<std::size_t, std::int64_t>, Placed> placed_;  // weight and axis: tied weights are quantized once
};

PARE_NAMESPACE_END
