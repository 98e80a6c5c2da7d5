#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "pare/execute/compile_options.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// What a compiled model runs as a step of its own at most: a fused region, or a node outside of all regions.
struct ExecutionUnit {
  std::string name, op;      ///< of its main node
  std::string precision;     ///< `int8`, `bf16`, `float32`
  std::string weight = {};   ///< path in the weight table, where it has one
  std::string what = {};     ///< its work: operators, constants, sizes, precision
  std::string context = {};  ///< in which precision it finds its operands and leaves its results
  std::int64_t macs = 0;
  std::uint64_t bytes = 0;  ///< operands, weights and results, each once, at their widths
  std::vector<ValueId> inputs = {};
};

/// The units of a model, in order.
struct ExecutionUnits {
  std::vector<ExecutionUnit> units;
  std::unordered_map<std::string, std::size_t> unit_of;  ///< of a node's name
  std::string call;                                      ///< the work between steps: sizes of inputs and outputs
  /// For each unit the weight of the layer that it is charged to: its own, or that of the nearest layer before it, else
  /// of the first one.
  std::vector<std::string> charged_to;
};

/// @param dims sizes of the model's dims
ExecutionUnits find_execution_units(const Model& model, const std::vector<std::int64_t>& dims,
                                    const CompileOptions& options);

PARE_NAMESPACE_END
