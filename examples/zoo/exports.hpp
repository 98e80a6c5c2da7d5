#pragma once

#include <map>
#include <string>
#include <vector>

#include "examples/models/registry.hpp"
#include "pare/execute/compiled_model.hpp"
#include "pare/graph/model.hpp"

namespace zoo {

/// Files that a job leaves behind; empty: not written.
struct Exports {
  std::string onnx;      ///< the optimized model as ONNX
  std::string samples;   ///< inputs and the compiled model's outputs, for tests/onnx/run_models.py
  std::string save;      ///< the optimized model as a checkpoint
  std::string c_folder;  ///< the optimized model as C: NAME.c and NAME.h
};

/// Writes them, `metadata` into those that have a place for it. @return a line for each
std::vector<std::string> write_exports(const Exports& exports, const std::string& name, const pare::Model& model,
                                       const pare::CompiledModel& compiled, const std::vector<models::Tensors>& batches,
                                       const std::map<std::string, std::string>& metadata);

}  // namespace zoo
