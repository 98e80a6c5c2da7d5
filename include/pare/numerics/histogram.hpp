#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "pare/core/qparams.hpp"

PARE_NAMESPACE_BEGIN

/// Counts of values in at most `kBins + 1` equal bins, whose width is a power of two and whose edges are multiples of
/// it.
///
/// When values fall outside, the width doubles and neighbours are added up, which loses nothing: the counts depend only
/// on the values, not on how they were cut into batches or in which order they came. Zeros are counted apart, for they
/// are exact under any quantization (and most of what ReLU gives). Bins remember the sum of their values too, so that
/// integer data stays on its grid.
class Histogram {
 public:
  static constexpr std::int64_t kBins = 4096;

  /// What one bin holds.
  struct Bin {
    double mean = 0.0;   ///< of the values in it
    double count = 0.0;  ///< how many
  };

  /// Numbers of any type, counted as float32.
  /// @throws Error `pare.numerics.101` for NaN, infinities and numbers that float32 has not
  void observe(const at::Tensor& values);
  void merge(const Histogram& other);

  [[nodiscard]] bool empty() const noexcept { return total_ == 0; }
  /// Smallest and largest value seen. @pre not empty
  [[nodiscard]] Range extrema() const noexcept { return extrema_; }
  /// Values seen, zeros included.
  [[nodiscard]] std::int64_t total() const noexcept { return total_; }
  [[nodiscard]] std::int64_t zeros() const noexcept { return zeros_; }
  /// Width of a bin; 0 while only zeros were seen.
  [[nodiscard]] double width() const noexcept;
  /// The bins that hold values other than 0, in ascending order.
  [[nodiscard]] std::vector<Bin> bins() const;

 private:
  void cover(Range range);
  void coarsen(int exponent);

  Range extrema_;
  std::int64_t total_ = 0;
  std::int64_t zeros_ = 0;
  int exponent_ = 0;        // width is 2^exponent
  std::int64_t first_ = 0;  // bin i covers [(first + i) * width, (first + i + 1) * width)
  std::vector<std::int64_t> counts_;
  std::vector<double> sums_;
};

PARE_NAMESPACE_END
