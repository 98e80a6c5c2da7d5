#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <list>
#include <map>
#include <mutex>
#include <set>

#include "execute/executor.hpp"
#include "execute/onednn/plan.hpp"
#include "execute/onednn/program.hpp"
#include "execute/step_times.hpp"
#include "execute/team_pace.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// This thread's OpenMP team size for the length of a call.
class TeamSize {
 public:
  explicit TeamSize(int threads) : before_(omp_get_max_threads()) {
    if (threads != before_) omp_set_num_threads(threads);
    threads_ = threads;
  }
  ~TeamSize() {
    if (threads_ != before_) omp_set_num_threads(before_);
  }
  TeamSize(const TeamSize&) = delete;
  TeamSize& operator=(const TeamSize&) = delete;

 private:
  int before_, threads_;
};

/// Plans by input sizes, and idle instances of each.
class OnednnExecutor final : public Executor {
 public:
  OnednnExecutor(const Model& model, const CompileOptions& options)
      : options_(options), threads_(options.threads > 0 ? options.threads : at::get_num_threads()) {
    const at::NoGradGuard no_grad;
    program_ = std::make_shared<const Program>(lower(model, options));
    const TeamSize team(threads_);
    entry_for(program_->graph.example_dims(), false);
  }

  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, const Tap& tap) override {
    const at::NoGradGuard no_grad;
    const auto dims = bind_inputs(inputs);
    if (std::ranges::count(dims, 0) > 0) return empty_results(dims);
    const auto entry = entry_for(dims, static_cast<bool>(tap));
    const bool adapts = options_.adapt_threads && !tap;
    const int threads = adapts ? entry->pace.choose() : threads_;
    const TeamSize team(threads);
    auto& lane = lane_for(*entry, threads);
    auto instance = lane.take();
    const auto start = TeamPace::Clock::now();
    std::vector<at::Tensor> results;
    try {
      results = instance->run(inputs, tap, adapts && threads > 1);
    } catch (const dnnl::error& error) {
      fail("pare.execute.104", "", "oneDNN failed while it ran: {}", error.what());
    }
    const auto end = TeamPace::Clock::now();
    if (adapts) entry->pace.record(threads, std::chrono::duration<double>(end - start).count(), end);
    lane.give_back(std::move(instance));
    return results;
  }

  ExecutionProfile profile(const std::vector<at::Tensor>& inputs, double seconds) override {
    const at::NoGradGuard no_grad;
    const auto dims = bind_inputs(inputs);
    if (std::ranges::count(dims, 0) > 0) fail("pare.execute.104", "", "nothing is computed for an empty batch");
    const auto entry = entry_for(dims, false);
    const TeamSize team(threads_);
    auto instance = entry->full.take();
    StepTimes times;
    std::vector<double> row_ms;
    times.repeat(
        seconds, [&] { static_cast<void>(instance->run(inputs, {})); },
        [&] {
          static_cast<void>(instance->run(inputs, {}, false, &row_ms));
          return row_ms;
        });
    auto rows = instance->plan().rows;
    entry->full.give_back(std::move(instance));
    rows.push_back({.name = "outputs",
                    .op = "results",
                    .fused = {},
                    .precision = "float32",
                    .implementation = "reorder",
                    .reason = {}});
    return times.profile(onednn_name(), std::move(rows));
  }

  ExecutionReport report() const override {
    ExecutionReport report{.backend = onednn_name(), .rows = {}};
    const std::lock_guard lock(mutex_);
    if (!entries_.empty()) report.rows = entries_.front()->full.plan->rows;
    return report;
  }

  std::size_t weight_bytes() const override { return stored_bytes(false); }
  std::size_t resident_bytes() const override {
    auto bytes = stored_bytes(true);
    const std::lock_guard lock(mutex_);
    for (const auto& entry : entries_) bytes += entry->full.resident_bytes() + entry->reduced.resident_bytes();
    return bytes;
  }

 private:
  // Kernels read memory as it lies.
  std::vector<std::int64_t> bind_inputs(const std::vector<at::Tensor>& inputs) const {
    const auto& graph = program_->graph;
    auto dims = Interpreter::bind_dims(graph, inputs);
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].defined() && !(inputs[i].is_cpu() && inputs[i].layout() == at::kStrided))
        fail("pare.run.109", graph.value(graph.inputs()[i]).name,
             "the model was compiled for dense tensors in the CPU's memory, this one is {} on {}",
             c10::str(inputs[i].layout()), inputs[i].device().str());
    return dims;
  }

  // Kernels are not made for nothing; what has no size needs none.
  std::vector<at::Tensor> empty_results(const std::vector<std::int64_t>& dims) const {
    const auto& graph = program_->graph;
    std::vector<at::Tensor> results;
    for (const auto output : graph.outputs()) {
      if (output == kNoValue) {
        results.emplace_back();
        continue;
      }
      const auto& value = graph.value(output);
      const auto sizes = program_->graph.value(output).type.sizes_at(dims);
      if (std::ranges::count(sizes, 0) == 0)
        fail("pare.execute.104", value.name, "a result that is not empty cannot be computed from an empty batch");
      results.push_back(at::empty(sizes, value.type.dtype));
    }
    return results;
  }

  /// A plan and its instances that are not running.
  struct Lane {
    std::shared_ptr<const ExecutionPlan> plan;
    mutable std::mutex mutex;
    std::vector<std::unique_ptr<PlanInstance>> idle;
    std::size_t made = 0;

    std::unique_ptr<PlanInstance> take() {
      {
        const std::lock_guard lock(mutex);
        if (!idle.empty()) {
          auto instance = std::move(idle.back());
          idle.pop_back();
          return instance;
        }
        ++made;
      }
      return std::make_unique<PlanInstance>(plan);
    }
    void give_back(std::unique_ptr<PlanInstance> instance) {
      const std::lock_guard lock(mutex);
      idle.push_back(std::move(instance));
    }
    std::size_t resident_bytes() const {
      const std::lock_guard lock(mutex);
      if (!plan) return 0;
      auto bytes = plan->arena_bytes * made;
      for (const auto& [value, tensor] : plan->constants) bytes += tensor.nbytes();
      return bytes;
    }
  };
  /// What runs inputs of one combination of sizes.
  struct Entry {
    Entry(std::vector<std::int64_t> of, bool is_tapped, int threads)
        : dims(std::move(of)), tapped(is_tapped), pace(threads) {}
    std::vector<std::int64_t> dims;
    bool tapped;
    TeamPace pace;
    Lane full, reduced;  ///< for the whole team, and for one thread less
    std::once_flag reduced_once;
  };

  std::shared_ptr<Entry> entry_for(const std::vector<std::int64_t>& dims, bool tapped) {
    {
      const std::lock_guard lock(mutex_);
      if (auto found = find(dims, tapped)) return found;
    }
    // Built outside the table's lock: other sizes go on meanwhile. Weights are packed under locks of their own.
    const std::lock_guard building(building_);
    {
      const std::lock_guard lock(mutex_);
      if (auto found = find(dims, tapped)) return found;
    }
    const TeamSize team(threads_);
    auto entry = std::make_shared<Entry>(dims, tapped, threads_);
    entry->full.plan = build_plan(program_, dims, tapped);
    const std::lock_guard lock(mutex_);
    entries_.push_front(entry);
    while (entries_.size() > options_.plans) entries_.pop_back();
    return entry;
  }

  // Under the team that will run it: kernels divide their work when they are made.
  Lane& lane_for(Entry& entry, int threads) {
    if (threads == threads_) return entry.full;
    std::call_once(entry.reduced_once, [&] {
      auto plan = build_plan(program_, entry.dims, entry.tapped, entry.full.plan.get());
      const std::lock_guard lock(entry.reduced.mutex);
      entry.reduced.plan = std::move(plan);
    });
    return entry.reduced;
  }

  std::shared_ptr<Entry> find(const std::vector<std::int64_t>& dims, bool tapped) {
    for (auto it = entries_.begin(); it != entries_.end(); ++it)
      if ((*it)->dims == dims && (*it)->tapped == tapped) {
        entries_.splice(entries_.begin(), entries_, it);
        return entries_.front();
      }
    return nullptr;
  }

  static std::size_t recurrent_bytes(const RecurrentStack& stack, bool every_layout) {
    std::size_t bytes = 0;
    for (const auto& layer : stack.layers) {
      bytes += layer.bias.nbytes();
      for (const auto* matrix : {&layer.input, &layer.hidden}) {
        const auto* numbers = matrix->numbers.get();
        if (numbers) bytes += every_layout ? numbers->resident_bytes() : numbers->payload_bytes();
        if (matrix->integers.integers.defined()) bytes += matrix->integers.nbytes();
      }
    }
    return bytes;
  }

  std::size_t stored_bytes(bool every_layout) const {
    std::size_t bytes = 0;
    std::set<const void*> rows;  // a table may be looked up and multiplied with
    for (const auto& step : program_->steps) {
      if (step.rows)
        for (const auto* tensor : {&step.rows->codes, &step.rows->scale, &step.rows->offset, &step.rows->bias})
          if (tensor->defined() && rows.insert(tensor->const_data_ptr()).second) bytes += tensor->nbytes();
      if (step.recurrent) bytes += recurrent_bytes(*step.recurrent, every_layout);
      if (step.weights) bytes += every_layout ? step.weights->resident_bytes() : step.weights->payload_bytes();
      for (const auto* tensor : {&step.gamma, &step.beta_tensor, &step.table.integers, &step.table.scale})
        if (tensor->defined()) bytes += tensor->nbytes();
    }
    for (const auto& [value, table] : program_->packed) bytes += table.nbytes();
    std::set<const void*> seen;
    for (const auto& [value, tensor] : program_->constants)
      if (tensor.defined() && seen.insert(tensor.data_ptr()).second) bytes += tensor.nbytes();
    return bytes;
  }

  CompileOptions options_;
  int threads_;
  std::shared_ptr<const Program> program_;
  mutable std::mutex mutex_;
  std::mutex building_;
  std::list<std::shared_ptr<Entry>> entries_;  // most recently used first
};

}  // namespace

std::string onednn_name() {
  const auto* version = dnnl::version();
  return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

std::shared_ptr<Executor> make_onednn_executor(const Model& model, const CompileOptions& options) {
  return std::make_shared<OnednnExecutor>(model, options);
}

PARE_NAMESPACE_END
