#pragma once

#include <string>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What runs how: a row for each step of a compiled model.
struct ExecutionReport {
  struct Row {
    std::string name;            ///< layer name of the step's main node
    std::string op;              ///< its operator, e.g. `aten::conv2d`
    std::string fused;           ///< what it takes in, e.g. `batch_norm, add, relu`
    std::string precision;       ///< `int8`, `bf16`, `float32`, or `-` where elements only move
    std::string implementation;  ///< oneDNN's name of the kernel, `view`, or `aten`
    std::string reason;          ///< why it runs on ATen; empty otherwise
  };
  std::string backend;  ///< `oneDNN 3.2.0`, or `ATen` and why
  std::vector<Row> rows;

  /// A table, one line a row.
  [[nodiscard]] std::string text() const;
};

PARE_NAMESPACE_END
