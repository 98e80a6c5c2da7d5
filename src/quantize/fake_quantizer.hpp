#pragma once

#include <map>
#include <optional>
#include <string>

#include "pare/graph/graph.hpp"
#include "pare/numerics/learned_fake_quantize.hpp"
#include "pare/numerics/moving_average.hpp"
#include "pare/quantize/any_observer.hpp"
#include "pare/quantize/qat_options.hpp"

PARE_NAMESPACE_BEGIN

/// One fake-quantize in training: a range that is observed or learned, for weights or for an activation.
class FakeQuantizer {
 public:
  struct Description {
    std::string name;  ///< of messages and of the state
    IntegerGrid grid;
    std::int64_t axis = -1;  ///< of scales; -1: one for the whole tensor
    bool weight = false;
    RangeTraining training = RangeTraining::LearnedStep;
    double momentum = 0.01;
  };

  /// @param scale,zero_point where the range starts: `[]` or `[channels]`
  FakeQuantizer(Description description, const at::Tensor& scale, const at::Tensor& zero_point);

  /// Rounds, differentiably. @throws Error `pare.quantize.111` for NaN and infinities
  [[nodiscard]] at::Tensor operator()(const at::Tensor& values) const;
  /// Moves an observed range with these values; does nothing for learned ones.
  void observe(const at::Tensor& values, const AnyWeightObserver& weight_observer);

  /// As kernels take them, `[]` or `[channels]`: float, int32.
  [[nodiscard]] at::Tensor scale() const;
  [[nodiscard]] at::Tensor zero_point() const;
  [[nodiscard]] const Description& description() const noexcept { return description_; }

  /// What an optimizer trains, by name.
  [[nodiscard]] std::map<std::string, at::Tensor> parameters() const;
  /// All that a resumed training needs, by name; the tensors are this object's own.
  [[nodiscard]] std::map<std::string, at::Tensor> state() const;
  /// Copies what `state` held. @pre `check_state`
  void load(const std::map<std::string, at::Tensor>& state) const;

 private:
  void check_finite(const at::Tensor& values) const;
  [[nodiscard]] at::Tensor differentiable_scale() const;
  [[nodiscard]] bool learns() const noexcept { return description_.training != RangeTraining::Observed; }

  Description description_;
  at::Tensor scale_;       // or the clip: scale times the steps of the grid
  at::Tensor zero_point_;  // float
  at::Tensor range_;       // [2] double, observed activations: low, high
};

/// @throws Error `pare.quantize.113` for tensors that are missing, left over, or of another shape or dtype
void check_state(const std::map<std::string, at::Tensor>& expected, const std::map<std::string, at::Tensor>& given);

PARE_NAMESPACE_END
