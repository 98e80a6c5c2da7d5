#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// What a model's weights take when each is stored at the width of its grid: a file, a download, flash.
///
/// A fake-quantized weight of n entries counts `ceil(n * bits / 8)` bytes, its scales four each, zero points only where
/// the grid is not symmetric; everything else counts as it is held. `CompiledModel::weight_bytes` counts beside that
/// what kernels keep (sums, padding) and holds 2, 4 or 8 bits.
class WeightStorage {
 public:
  explicit WeightStorage(const Model& model);
  /// Bytes of everything that the graph reads; what is tied counts once.
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  /// Bytes of one entry of the weight table, without its scales; 0 for what the graph does not read.
  [[nodiscard]] std::uint64_t bytes(const std::string& path) const;
  /// Bytes of the scales and zero points that one entry is stored with; 0 for what is on no grid.
  [[nodiscard]] std::uint64_t grid_bytes(const std::string& path) const;
  /// Bits an entry is stored at, e.g. 4, 8, or 32 for float32.
  [[nodiscard]] int bits(const std::string& path) const;

 private:
  std::map<std::string, std::uint64_t> by_path_, grids_;
  std::map<std::string, int> bits_;
  std::uint64_t bytes_ = 0;
};

PARE_NAMESPACE_END
