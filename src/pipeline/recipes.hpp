#pragma once

#include <functional>
#include <string>
#include <vector>

#include "pare/execute/compile_options.hpp"
#include "pare/pass/apply.hpp"
#include "pare/plan/plan.hpp"
#include "pare/quantize/quantization_settings.hpp"

PARE_NAMESPACE_BEGIN

/// A way to make a model smaller, with its name: run again whenever it has to be calibrated on other data.
struct LadderRecipe {
  std::string name;
  std::function<Applied(const ContextOptions& context)> build;
  CompileOptions compile;
  bool fresh = true;  ///< whether other calibration data makes another model; what was trained stays
};

/// The rungs of the ladder that `optimize` climbs.
class Ladder {
 public:
  Ladder(const Model& model, CompileOptions compile) : model_(model), compile_(std::move(compile)) {}

  [[nodiscard]] LadderRecipe float32() const;
  [[nodiscard]] LadderRecipe bf16() const;
  [[nodiscard]] LadderRecipe int8() const;
  /// These layers stay float.
  [[nodiscard]] LadderRecipe int8_but(std::string name, std::vector<std::string> layers) const;
  /// The bits of a plan: 2 to 8, 16 in bf16, 32 float.
  [[nodiscard]] LadderRecipe planned(const Plan& plan, Rounding rounding = Rounding::Compensated) const;
  /// A share of the multiply-accumulates goes first.
  [[nodiscard]] LadderRecipe pruned(double macs) const;
  /// That share of them gone, still float: what `taught` starts from.
  [[nodiscard]] Applied thin(double macs, const ContextOptions& context) const;
  /// int8 of a model that was trained on the way, with what was done to it before.
  [[nodiscard]] LadderRecipe int8_of(std::string name, Applied trained) const;
  /// A model that was trained as it is.
  [[nodiscard]] LadderRecipe finished(std::string name,
                                      std::function<Applied(const ContextOptions& context)> build) const;

 private:
  Model model_;
  CompileOptions compile_;
};

/// What the layers of a model have become, compiled like this: bits as they are stored.
Plan plan_of(const Model& model, const CompileOptions& compile);

/// Bytes of a model's weights (`WeightStorage`), where those of the plan's bf16 layers have two each.
std::uint64_t stored_bytes(const Model& model, const Plan& plan);

PARE_NAMESPACE_END
