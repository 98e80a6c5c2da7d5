#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pare/graph/fusion_rule.hpp"
#include "pare/graph/op_family.hpp"

PARE_NAMESPACE_BEGIN

/// What a back end can run in low precision, as data: quantization consults it, execution keeps it.
struct TargetDescription {
  /// Over which elements one scale is shared.
  enum class Granularity : std::uint8_t { PerTensor, PerChannel, PerGroup };
  /// One integer representation of a tensor.
  struct Scheme {
    int bits = 8;
    bool is_signed = true;
    bool symmetric = true;  ///< zero point 0 (signed) or any (affine)
    Granularity granularity = Granularity::PerTensor;
    friend bool operator==(const Scheme&, const Scheme&) = default;
  };
  /// What one family can do.
  struct Support {
    OpFamily family = OpFamily::Other;
    std::vector<Scheme> weights;      ///< best first; empty: the family has no weights
    std::vector<Scheme> activations;  ///< best first; empty with weights: weight-only, activations stay float
    bool float_output = true;         ///< the kernel may write numbers, too; otherwise whoever reads gets integers
    std::string reason;               ///< why not more, for reports
  };

  std::string name;
  std::vector<Support> families;
  std::span<const FusionRule> fusion = {};  ///< what its kernels take in; empty: `default_fusion_rules()`

  /// The entry of a family, or null: it stays float.
  [[nodiscard]] const Support* find(OpFamily family) const noexcept;
};

/// This process's back end: oneDNN's integer kernels. Weights s8 symmetric (per output channel or per tensor),
/// activations u8 affine or s8 symmetric per tensor; recurrent and embedding weights only.
const TargetDescription& onednn_target();

/// ONNX Runtime's CPU kernels. As `onednn_target()`, but a convolution is integer only where its own result is
/// integers: a residual sum, and an activation that is not a clamp, are kernels of their own, with one rounding more
/// between. Transposed convolutions have integer weights only.
const TargetDescription& onnxruntime_target();

PARE_NAMESPACE_END
