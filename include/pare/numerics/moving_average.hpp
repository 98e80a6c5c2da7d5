#pragma once

#include <cstdint>

#include "pare/core/error.hpp"
#include "pare/numerics/fake_quantize.hpp"

PARE_NAMESPACE_BEGIN

/// The mean extent of a batch, later batches weighing more: `extent += weight * (batch - extent)`, as in Jacob et al.,
/// "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.
class MovingAverage {
 public:
  /// @param weight of the newest batch, in (0, 1]. @throws Error `pare.numerics.104` outside
  explicit MovingAverage(double weight = 0.1) : weight_(weight) {
    if (!(weight > 0.0 && weight <= 1.0)) fail("pare.numerics.104", "", "a weight of {} is not in (0, 1]", weight);
  }

  /// Goes on from a range that an average had reached.
  MovingAverage(double weight, Range reached) : MovingAverage(weight) {
    seen_ = reached;
    batches_ = 1;
  }

  /// @throws Error `pare.numerics.101` for NaN or infinities
  void observe(const at::Tensor& values) {
    if (values.numel() == 0) return;
    const auto batch = finite_extrema(values);
    const double share = batches_ == 0 ? 1.0 : weight_;
    seen_.low += share * (batch.low - seen_.low);
    seen_.high += share * (batch.high - seen_.high);
    ++batches_;
  }
  /// Averages by the number of batches: the order between the two streams is not known.
  void merge(const MovingAverage& other) {
    if (other.empty()) return;
    const double share = static_cast<double>(other.batches_) / static_cast<double>(batches_ + other.batches_);
    seen_.low += share * (other.seen_.low - seen_.low);
    seen_.high += share * (other.seen_.high - seen_.high);
    batches_ += other.batches_;
  }
  [[nodiscard]] bool empty() const noexcept { return batches_ == 0; }
  /// @throws Error `pare.numerics.103` before anything was seen
  [[nodiscard]] Range range(const IntegerGrid&) const {
    if (empty()) fail("pare.numerics.103", "", "the observer has seen no values");
    return seen_;
  }

 private:
  double weight_;
  Range seen_;
  std::int64_t batches_ = 0;
};

PARE_NAMESPACE_END
