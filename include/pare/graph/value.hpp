#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pare/graph/ids.hpp"
#include "pare/graph/symbolic_int.hpp"

PARE_NAMESPACE_BEGIN

/// What is known of a tensor before it exists.
struct TensorType {
  c10::ScalarType dtype = c10::ScalarType::Float;
  std::vector<SymbolicInt> sizes;
  [[nodiscard]] std::size_t rank() const noexcept { return sizes.size(); }
  /// `sizes` where the graph's dims are these.
  [[nodiscard]] std::vector<std::int64_t> sizes_at(std::span<const std::int64_t> dims) const {
    std::vector<std::int64_t> numbers;
    numbers.reserve(sizes.size());
    for (const auto& size : sizes) numbers.push_back(size.evaluate(dims));
    return numbers;
  }
  friend bool operator==(const TensorType&, const TensorType&) = default;
};

/// Where a value comes from.
enum class ValueKind : std::uint8_t { Input, Weight, Result };

/// One SSA value: an input of the model, an entry of its weight table, or a result of a node.
struct Value {
  ValueId id{};
  ValueKind kind = ValueKind::Result;
  TensorType type;
  std::string name;            ///< input name, or weight path; empty for results
  NodeId producer = kNoNode;   ///< for results
  std::uint32_t position = 0;  ///< which output of the producer, or which input of the model
};

PARE_NAMESPACE_END
