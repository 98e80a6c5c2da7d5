#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "calibration.hpp"

PARE_NAMESPACE_BEGIN

/// The operator that stands for a weight rounded with a scale for each channel.
inline constexpr std::string_view kPerChannel = "aten::fake_quantize_per_channel_affine";

/// Rounds weights, corrects biases, and puts fake-quantize nodes between the weight table and the layers.
///
/// The table takes the rounded numbers of a weight that all its readers want rounded in one way. A weight that someone
/// reads as it is, or in other bits (tied layers may differ), keeps its numbers: the fake-quantizes round them, to
/// nearest. Bits asked of one of several tied layers are those of the others that nothing was said of.
class WeightQuantizer {
 public:
  /// @param layers all that will be quantized, and those that stay float
  WeightQuantizer(Model& model, Context& context, const QuantizationSettings& settings,
                  const std::vector<Layer>& layers);

  /// @param form,moments of the layer's input, or null without calibration
  /// @param input_scale of the integers that the layer reads, or nothing where it reads numbers
  /// @return what was done, for the report
  /// @throws Error `pare.quantize.101` for a weight with NaN or infinities
  std::string quantize(const Layer& layer, const MatrixForm* form, const Gram* moments,
                       std::optional<double> input_scale);

 private:
  using Key = std::tuple<ValueId, std::int64_t, int>;  // a weight, its axis or -1 (per tensor), bits
  struct Placed {
    ValueId value = kNoValue;  // after fake-quantize
    at::Tensor rounded = {};   // where the table keeps the numbers
    std::string how = {};
  };
  struct Way {
    std::int64_t axis = 0;
    bool per_tensor = false;
    Bits bits = {};
    const MatrixForm* form = nullptr;
    const Gram* moments = nullptr;
    at::Tensor smallest = {};  // scales that a channel must not go below
  };
  static Key key_of(ValueId weight, const Way& way) { return {weight, way.per_tensor ? -1 : way.axis, way.bits.count}; }
  [[nodiscard]] Way way_of(const Layer& layer) const;
  [[nodiscard]] bool is_recurrent_matrix(ValueId value) const;
  [[nodiscard]] std::vector<std::pair<ValueId, NodeId>> readings(const Layer& layer) const;
  const Placed& place(ValueId weight, const Way& way);
  ValueId place_groups(ValueId weight, const Way& way, std::int64_t rows, ValueId scale, ValueId zero_point,
                       const std::string& label);
  std::string recurrent(const Layer& layer, const Way& way);
  void correct_bias(const Layer& layer, const MatrixForm& form, const Gram& moments, const at::Tensor& before,
                    const at::Tensor& after);
  [[nodiscard]] at::Tensor smallest_scale(const Layer& layer, double input_scale) const;
  [[nodiscard]] std::optional<Bits> named_bits(NodeId layer) const;
  [[nodiscard]] IntegerGrid grid(Bits bits) const;

  Model& model_;
  Context& context_;
  const QuantizationSettings& settings_;
  std::map<ValueId, Bits> tied_;  // what was asked for one reader of a weight
  std::set<ValueId> kept_;        // weights whose numbers the table keeps
  std::map<Key, Placed> placed_;  // tied weights are quantized once
};

PARE_NAMESPACE_END
