#include "pipeline/measuring.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// Tells another Progress of steps.
class Relay {
 public:
  explicit Relay(Progress to) : to_(std::move(to)) {}
  void operator()(const ProgressStep& step) {
    const std::string name(step.task);
    auto& [task, done] = tasks_[name];
    if (!task) task = std::make_unique<Progress::Task>(to_, name, step.total), done = 0;
    if (step.done > done) task->advance(step.done - done);
    done = step.done;
    if (step.finished) tasks_.erase(name);
  }

 private:
  Progress to_;
  std::map<std::string, std::pair<std::unique_ptr<Progress::Task>, std::size_t>> tasks_;
};

// Whether the first entries of all inputs are one sample: every dimension 0 is the batch, nothing else has to do with
// the batch's size, and the model runs on one.
bool holds_samples(const Graph& graph, const Batch& batch) {
  if (batch.size() != graph.inputs().size()) return false;
  std::optional<std::uint32_t> dim;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (!batch[i].defined()) continue;
    const auto& sizes = graph.value(graph.inputs()[i]).type.sizes;
    if (sizes.empty() || batch[i].dim() == 0 || batch[i].size(0) == 0 || sizes[0].terms().size() != 1) return false;
    const auto& dims = sizes[0].terms()[0].dims;
    if (dims.size() != 1 || sizes[0] != SymbolicInt::dim(dims[0]) || dim.value_or(dims[0]) != dims[0]) return false;
    dim = dims[0];
    const auto depends = [&](const SymbolicInt& size) {
      return std::ranges::any_of(
          size.terms(), [&](const SymbolicInt::Term& term) { return std::ranges::count(term.dims, *dim) > 0; });
    };
    if (std::any_of(sizes.begin() + 1, sizes.end(), depends)) return false;
  }
  return dim && graph.smallest_dims()[*dim] <= 1;
}

}  // namespace

Progress cancellable(const Progress& progress, const std::function<bool()>& cancelled) {
  if (!cancelled) return progress;
  return Progress([relay = std::make_shared<Relay>(progress), cancelled](const ProgressStep& step) {
    if (!step.finished && cancelled()) fail("pare.pipeline.105", std::string(step.task), "cancelled");
    (*relay)(step);
  });
}

Predictor predictor(const Model& model) {
  return [&model](const std::vector<at::Tensor>& inputs) { return model.run(inputs); };
}

Predictor predictor(const CompiledModel& model) {
  return [&model](const std::vector<at::Tensor>& inputs) { return model.run(inputs); };
}

std::uint64_t bytes_of(const Model& model) {
  std::uint64_t bytes = 0;
  std::set<const void*> counted;
  for (const auto& [path, weight] : model.weights())
    if (weight.tensor.defined() && counted.insert(weight.tensor.data_ptr()).second) bytes += weight.tensor.nbytes();
  return bytes;
}

Batch example_of(const Model& model, const Batch& example, const Batches& calibration) {
  if (example.empty() && calibration.empty())
    fail("pare.pipeline.102", "", "nothing to measure latency on: give an example or calibration batches");
  auto batch = example.empty() ? *calibration.begin() : example;
  if (example.empty() && holds_samples(model.graph(), batch))
    for (auto& input : batch)
      if (input.defined()) input = input.narrow(0, 0, 1).contiguous();
  const at::NoGradGuard no_grad;
  (void)model.run(batch);
  return batch;
}

void validate_budget(const Budget& budget, bool judged, double seconds) {
  if (budget.max_drop && !judged)
    fail("pare.pipeline.101", "", "the budget limits the drop of a metric, but no metric is given");
  if (budget.max_drop && !(budget.max_drop->fraction >= 0))
    fail("pare.pipeline.101", "", "a drop of at most {} is not possible", budget.max_drop->fraction);
  if (budget.bytes && budget.bytes->count == 0) fail("pare.pipeline.101", "", "a budget of 0 bytes");
  if (budget.stored && budget.stored->count == 0) fail("pare.pipeline.101", "", "a budget of 0 bytes to store");
  if (budget.latency_ms && !(*budget.latency_ms > 0))
    fail("pare.pipeline.101", "", "a latency of at most {} ms is not possible", *budget.latency_ms);
  if (!(seconds > 0) || !std::isfinite(seconds))
    fail("pare.pipeline.101", "", "{} seconds to measure latency in", seconds);
}

PARE_NAMESPACE_END
