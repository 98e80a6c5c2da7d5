#include <ATen/ATen.h>

#include <chrono>

#include "execute/executor.hpp"
#include "execute/step_times.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

namespace {

/// The reference interpreter behind the compiled interface: fake-quantize nodes stay simulated.
class AtenExecutor final : public Executor {
 public:
  AtenExecutor(const Model& model, std::string reason) : model_(model), reason_(std::move(reason)) {
    if (model_.is_training()) model_.eval();
    model_.detach_weights();
  }

  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, const Tap& tap) override {
    const at::NoGradGuard no_grad;
    return model_.run(inputs, tap);
  }

  ExecutionReport report() const override {
    ExecutionReport report{.backend = "ATen: " + reason_, .rows = {}};
    for (const auto id : model_.graph().nodes()) {
      const auto& node = model_.graph().node(id);
      if (node.condition == Condition::Training) continue;
      report.rows.push_back({.name = node.name,
                             .op = node.op.name(),
                             .fused = {},
                             .precision = "float32",
                             .implementation = "aten",
                             .reason = reason_});
    }
    return report;
  }

  ExecutionProfile profile(const std::vector<at::Tensor>& inputs, double seconds) override {
    const at::NoGradGuard no_grad;
    auto rows = report().rows;
    std::vector<std::size_t> row_of(model_.graph().value_count(), rows.size());
    std::size_t at = 0;
    for (const auto id : model_.graph().nodes()) {
      const auto& node = model_.graph().node(id);
      if (node.condition == Condition::Training) continue;
      for (const auto output : node.outputs) row_of[index(output)] = at;
      ++at;
    }
    StepTimes times;
    const auto plain = [&] { static_cast<void>(model_.run(inputs)); };
    times.repeat(seconds, plain, [&] {
      std::vector<double> row_ms(rows.size(), 0.0);
      auto before = std::chrono::steady_clock::now();
      static_cast<void>(model_.run(inputs, [&](ValueId value, const at::Tensor&) {
        const auto after = std::chrono::steady_clock::now();
        if (const auto row = row_of[index(value)]; row < row_ms.size())
          row_ms[row] += std::chrono::duration<double, std::milli>(after - before).count();
        before = after;
      }));
      return row_ms;
    });
    return times.profile("ATen: " + reason_, std::move(rows));
  }

  std::size_t weight_bytes() const override {
    std::size_t bytes = 0;
    for (const auto& [path, weight] : model_.weights()) bytes += weight.tensor.nbytes();
    return bytes;
  }
  std::size_t resident_bytes() const override { return weight_bytes(); }

 private:
  Model model_;
  std::string reason_;
};

}  // namespace

std::shared_ptr<Executor> make_aten_executor(const Model& model, std::string reason) {
  return std::make_shared<AtenExecutor>(model, std::move(reason));
}

PARE_NAMESPACE_END
