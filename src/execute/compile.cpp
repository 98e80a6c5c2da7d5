#include "pare/execute/compile.hpp"

#include <ATen/Functions.h>

#include <algorithm>

#include "execute/executor.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/graph.hpp"
#include "pare/graph/verify.hpp"

PARE_NAMESPACE_BEGIN

std::vector<at::Tensor> CompiledModel::run(const std::vector<at::Tensor>& inputs, const Tap& tap) const {
  return executor_->run(inputs, tap);
}

ExecutionProfile CompiledModel::profile(const std::vector<at::Tensor>& inputs, double seconds) const {
  if (!(seconds > 0)) fail("pare.execute.101", "seconds", "a profile of {} seconds", seconds);
  return executor_->profile(inputs, seconds);
}

ExecutionReport CompiledModel::report() const { return executor_->report(); }
std::size_t CompiledModel::weight_bytes() const { return executor_->weight_bytes(); }
std::size_t CompiledModel::resident_bytes() const { return executor_->resident_bytes(); }

at::Tensor CompiledModel::only(std::vector<at::Tensor> outputs) {
  if (outputs.size() != 1)
    fail("pare.run.107", "", "the model has {} outputs: call run() for all of them", outputs.size());
  return std::move(outputs.front());
}

std::string ExecutionReport::text() const {
  std::size_t name = 4, op = 2, kernel = 6;
  for (const auto& row : rows) {
    name = std::max(name, row.name.size());
    op = std::max(op, row.op.size());
    kernel = std::max(kernel, row.implementation.size());
  }
  std::string result = fmt::format("backend: {}\n", backend);
  for (const auto& row : rows) {
    result += fmt::format("{:<{}}  {:<{}}  {:<8}  {:<{}}", row.name, name, row.op, op, row.precision,
                          row.implementation, kernel);
    if (!row.fused.empty()) result += "  + " + row.fused;
    if (!row.reason.empty()) result += "  (" + row.reason + ")";
    result += '\n';
  }
  return result;
}

double ExecutionProfile::steps_ms() const {
  double sum = 0;
  for (const auto& step : steps) sum += step.ms;
  return sum;
}

std::string ExecutionProfile::text() const {
  std::size_t name = 4, op = 2;
  for (const auto& step : steps) {
    name = std::max(name, step.row.name.size());
    op = std::max(op, step.row.op.size());
  }
  auto text = fmt::format("{:<{}}  {:<{}}  {:<9}  {:>9}  {:>5}  {}\n", "step", name, "op", op, "precision", "ms", "%",
                          "kernel");
  for (const auto& step : steps)
    text +=
        fmt::format("{:<{}}  {:<{}}  {:<9}  {:>9.4f}  {:>5.1f}  {}\n", step.row.name, name, step.row.op, op,
                    step.row.precision, step.ms, call_ms > 0 ? 100 * step.ms / call_ms : 0.0, step.row.implementation);
  return text + fmt::format("{} rows, a call {:.4f} ms; of {} runs; {}\n", steps.size(), call_ms, runs, backend);
}

namespace {

void check(const CompileOptions& options, const Graph& graph) {
  const auto supported = [](c10::ScalarType type) { return type == at::kFloat || type == at::kBFloat16; };
  if (!supported(options.dtype))
    fail("pare.execute.101", "dtype",
         "{} is not a compute precision: use float32 or bfloat16, and fake-quantize for int8",
         c10::toString(options.dtype));
  for (const auto& [name, type] : options.node_precision) {
    if (graph.find(name) == kNoNode) fail("pare.execute.101", name, "node_precision names no layer of this model");
    if (!supported(type))
      fail("pare.execute.101", name, "{} is not a compute precision: use float32 or bfloat16", c10::toString(type));
  }
  if (options.threads < 0 || options.threads > 4096)
    fail("pare.execute.101", "threads", "{} threads are out of range: 0 (LibTorch's number) to 4096", options.threads);
  if (options.plans == 0) fail("pare.execute.101", "plans", "at least one plan must be kept");
}

// Kernels that clamp would make plausible numbers of them.
void check_numbers(const Model& model) {
  for (const auto& [path, weight] : model.weights())
    if (weight.tensor.is_floating_point() && weight.tensor.isnan().any().item<bool>())
      fail("pare.execute.105", path, "this weight holds NaN; the training has diverged, or the file is damaged");
}

// Why ATen runs the model, and what was asked of a compiler in vain.
std::string on_aten(std::string why, const CompileOptions& options) {
  if (options.dtype != at::kFloat || !options.node_precision.empty()) why += "; dtype and node_precision do not apply";
  if (options.threads > 0) why += fmt::format("; it takes LibTorch's threads, not {}", options.threads);
  return why;
}

}  // namespace

std::string execution_backend() {
#ifdef PARE_HAS_ONEDNN
  return onednn_name();
#else
  return "ATen";
#endif
}

CompiledModel compile(const Model& model, const CompileOptions& options) {
  verify(model);
  check(options, model.graph());
  check_numbers(model);
  for (const auto& [path, weight] : model.weights())
    if (!weight.tensor.device().is_cpu())
      return CompiledModel(
          make_aten_executor(model, on_aten(fmt::format("the model is on {}", weight.tensor.device().str()), options)));
#ifdef PARE_HAS_ONEDNN
  return CompiledModel(make_onednn_executor(model, options));
#else
  return CompiledModel(make_aten_executor(model, on_aten("this build has no oneDNN", options)));
#endif
}

PARE_NAMESPACE_END
