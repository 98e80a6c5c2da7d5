#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "joint_size.hpp"
#include "pare/core/batches.hpp"
#include "pare/execute/compile.hpp"

PARE_NAMESPACE_BEGIN

/// How long plans of choices take. Each layer's time is known at the widths that it had in the models that were run;
/// between two of them it is interpolated by what is left of the layer's weight.
class JointLatency {
 public:
  /// @param size must outlive the object
  JointLatency(const JointSize& size, Batch inputs, CompileOptions compile, double seconds);

  /// Compiles and runs the model that a plan became, in turns with the first one that was: a slow phase of the machine
  /// hits both. Keeps what its layers take.
  /// @return ms of a call, in the first model's
  double measure(const Selected& selected, const Model& model);
  /// From the models run so far, of which there is one at least.
  [[nodiscard]] double predict(const Selected& selected) const;

 private:
  /// What is left of a weight -> ms of what is charged to it, the least seen.
  using Times = std::map<double, double>;

  const JointSize& size_;
  Batch inputs_;
  CompileOptions compile_;
  double seconds_;
  std::optional<CompiledModel> first_;
  double first_ms_ = 0;
  std::map<std::string, Times> layers_;  // by weight
};

PARE_NAMESPACE_END
