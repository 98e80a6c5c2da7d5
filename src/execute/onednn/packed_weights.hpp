#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <list>
#include <mutex>
#include <vector>

#include "execute/onednn/onednn.hpp"

PARE_NAMESPACE_BEGIN

/// The weights of one kernel: packed into the layouts that its plans ask for, scales and bias beside them.
///
/// The plain tensor is dropped once the first layout exists; a further layout is made from a packed one.
class PackedWeights {
 public:
  /// @param plain  contiguous in `dims` order: s8 integers, or float32
  /// @param dims   oneDNN's logical dims, e.g. `[G, O/G, I/G, kh, kw]`
  /// @param scales of integer weights: one, or one for each output channel; empty for float
  /// @param bias   float32 `[O]`, or undefined
  /// @param sums   of the integers behind each output channel, or undefined: what a source's zero point is multiplied
  /// by
  PackedWeights(at::Tensor plain, dnnl::memory::dims dims, std::vector<float> scales, at::Tensor bias,
                at::Tensor sums = {});

  [[nodiscard]] const dnnl::memory::dims& dims() const noexcept { return dims_; }
  [[nodiscard]] bool is_integer() const noexcept { return !scales_.empty(); }
  [[nodiscard]] const std::vector<float>& scales() const noexcept { return scales_; }
  [[nodiscard]] const at::Tensor& bias() const noexcept { return bias_; }
  /// int64 `[O]`, or undefined.
  [[nodiscard]] const at::Tensor& sums() const noexcept { return sums_; }
  [[nodiscard]] dnnl::memory::data_type plain_type() const noexcept;
  /// The layouts that exist already.
  [[nodiscard]] std::vector<dnnl::memory::desc> layouts() const;
  /// The weights in the layout `wanted`, packed on first demand.
  dnnl::memory packed(const dnnl::memory::desc& wanted);
  /// The scales as oneDNN takes them.
  [[nodiscard]] const dnnl::memory& scale_memory() const noexcept { return scale_memory_; }
  /// Bytes of the smallest layout, scales and bias.
  [[nodiscard]] std::size_t payload_bytes() const;
  [[nodiscard]] std::size_t resident_bytes() const;

 private:
  at::Tensor plain() const;

  mutable std::mutex mutex_;
  at::Tensor plain_;
  dnnl::memory::dims dims_;
  std::vector<float> scales_;
  at::Tensor bias_, sums_;
  dnnl::memory scale_memory_;
  std::list<dnnl::memory> packed_;
};

PARE_NAMESPACE_END
