#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <list>
#include <mutex>
#include <vector>

#include "execute/onednn/onednn.hpp"
#include "execute/packed_integers.hpp"

PARE_NAMESPACE_BEGIN

/// The weights of one kernel: packed into the layouts that its plans ask for, scales and bias beside them.
///
/// The plain tensor is dropped once the first layout exists; a further layout is made from a packed one. Integers that
/// fit into 2 or 4 bits are stored so and stay: kernels read them from layouts of 8 bits, which are made from them.
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
  /// The integers in the order of a kernel of our own, made from the plain ones on first demand. One kernel asks.
  at::Tensor ordered(at::Tensor (*order)(const at::Tensor& plain));
  /// The scales as oneDNN takes them.
  [[nodiscard]] const dnnl::memory& scale_memory() const noexcept { return scale_memory_; }
  /// Bits in which an integer is stored.
  [[nodiscard]] int stored_bits() const noexcept { return few_bits_.defined() ? few_bits_.bits() : 8; }
  /// Bytes of what is stored once: integers of few bits, or else the smallest layout; scales and bias.
  [[nodiscard]] std::size_t payload_bytes() const;
  /// Bytes of all layouts that exist, and of what they were made from where that is kept.
  [[nodiscard]] std::size_t resident_bytes() const;

 private:
  at::Tensor plain() const;
  std::size_t extra_bytes() const;

  mutable std::mutex mutex_;
  at::Tensor plain_;
  PackedIntegers few_bits_;  // in place of `plain_`
  dnnl::memory::dims dims_;
  std::vector<float> scales_;
  at::Tensor bias_, sums_;
  dnnl::memory scale_memory_;
  std::list<dnnl::memory> packed_;
  at::Tensor ordered_;
};

PARE_NAMESPACE_END
