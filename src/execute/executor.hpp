#pragma once

#include "pare/execute/compile_options.hpp"
#include "pare/execute/compiled_model.hpp"

PARE_NAMESPACE_BEGIN

/// A back end's side of `CompiledModel`.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, const Tap& tap) = 0;
  virtual ExecutionReport report() const = 0;
  virtual ExecutionProfile profile(const std::vector<at::Tensor>& inputs, double seconds) = 0;
  virtual std::size_t weight_bytes() const = 0;
  virtual std::size_t resident_bytes() const = 0;
};

std::shared_ptr<Executor> make_aten_executor(const Model& model, std::string reason);
/// Only in builds with oneDNN.
std::string onednn_name();
std::shared_ptr<Executor> make_onednn_executor(const Model& model, const CompileOptions& options);

PARE_NAMESPACE_END
