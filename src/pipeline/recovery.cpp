#include "pipeline/recovery.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>

#include <cmath>
#include <memory>
#include <numbers>

#include "distill/check_loss.hpp"
#include "distill/training_state.hpp"
#include "pare/distill/fit.hpp"
#include "pare/numerics/divergence.hpp"
#include "pare/quantize/quantization_aware_training.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// A training draws from LibTorch's random state, which is the caller's again afterwards.
class SeededTraining {
 public:
  explicit SeededTraining(std::uint64_t seed) : before_(random_state()) { at::manual_seed(seed); }
  ~SeededTraining() { set_random_state(before_); }
  SeededTraining(const SeededTraining&) = delete;
  SeededTraining& operator=(const SeededTraining&) = delete;

 private:
  at::Tensor before_;
};

at::Tensor imitation(const std::vector<at::Tensor>& student, const std::vector<at::Tensor>& teacher) {
  constexpr double kTemperature = 4.0;
  at::Tensor sum;
  for (std::size_t i = 0; i < student.size(); ++i) {
    if (!student[i].defined() || !student[i].is_floating_point()) continue;
    const bool classes = student[i].dim() == 2 && student[i].size(1) > 1;
    const auto one = classes ? softened_divergence(student[i], teacher[i], kTemperature)
                             : (student[i] - teacher[i]).square().mean() / (teacher[i].var(false) + 1e-6);
    sum = sum.defined() ? sum + one : one;
  }
  if (!sum.defined()) fail("pare.pipeline.101", "", "the model has no floating output to be taught: give a loss");
  return sum;
}

// The loss of one batch through a student of any kind.
template <class Student>
at::Tensor loss_of(Student& student, const Lesson& lesson, const Batch& batch) {
  const auto count = std::min(batch.size(), lesson.teacher.graph().inputs().size());
  const Batch inputs(batch.begin(), batch.begin() + static_cast<std::ptrdiff_t>(count));
  const Batch labels(batch.begin() + static_cast<std::ptrdiff_t>(count), batch.end());
  std::vector<at::Tensor> answers;
  {
    const at::NoGradGuard no_grad;
    answers = lesson.teacher.run(inputs);
  }
  const auto own = student.run(inputs);
  return lesson.how.loss ? lesson.how.loss(own, answers, labels) : imitation(own, answers);
}

torch::optim::AdamW optimizer_of(const QuantizationAwareTraining& student, const AutoTraining& how) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(student.model_parameters(),
                      std::make_unique<torch::optim::AdamWOptions>(
                          torch::optim::AdamWOptions(how.quantized_rate).weight_decay(how.fit.weight_decay)));
  groups.emplace_back(student.range_parameters(), std::make_unique<torch::optim::AdamWOptions>(
                                                      torch::optim::AdamWOptions(how.quantized_rate).weight_decay(0)));
  return torch::optim::AdamW(groups, torch::optim::AdamWOptions(how.quantized_rate));
}

// Adam moves every number by about its rate at a step, whatever the gradient: scales are a hundredth of a weight.
void set_rates(torch::optim::AdamW& optimizer, double rate) {
  constexpr double kOfRanges = 0.02;
  double share = 1;
  for (auto& group : optimizer.param_groups()) {
    static_cast<torch::optim::AdamWOptions&>(group.options()).lr(share * rate);
    share *= kOfRanges;
  }
}

std::int64_t batches_of(const Batches& epoch) {
  if (const auto size = epoch.size()) return static_cast<std::int64_t>(*size);
  std::int64_t count = 0;
  for ([[maybe_unused]] const auto& batch : epoch) ++count;
  return count;
}

}  // namespace

void validate_training(const AutoTraining& training) {
  if (!training.data) return;
  training.fit.validate();
  if (training.quantized_epochs < 0)
    fail("pare.pipeline.101", "", "{} epochs of quantization-aware training", training.quantized_epochs);
  if (!(training.quantized_rate > 0) || !std::isfinite(training.quantized_rate))
    fail("pare.pipeline.101", "", "a rate of {} for quantization-aware training", training.quantized_rate);
  if (training.data.epoch(0).empty()) fail("pare.pipeline.101", "", "training data without a batch");
}

Applied taught(Model model, const Lesson& lesson) {
  model.detach_weights();
  for (auto& [path, parameter] : model.named_parameters())
    if (parameter.is_floating_point()) parameter.requires_grad_(true);
  auto fit_options = lesson.how.fit;
  fit_options.batch_statistics = fit_options.batch_statistics && model.can_train();
  fit_options.judge = {};
  fit_options.checkpoint = lesson.checkpoint;
  fit_options.seed = lesson.context.seed;
  fit_options.log = lesson.context.log;
  fit_options.progress = lesson.context.progress;
  const auto result = fit(
      model, lesson.how.data, [&](const Batch& batch) { return loss_of(model, lesson, batch); }, fit_options);
  Report report;
  report.add(ReportRow{"(model)",
                       "training",
                       "fit",
                       Decision::Done,
                       fmt::format("taught by the captured model in {} steps: mean loss {:.4g} to {:.4g}", result.steps,
                                   result.first_loss, result.last_loss),
                       {}});
  return {std::move(model), std::move(report)};
}

Applied trained_quantized(const Model& model, const Lesson& lesson) {
  const at::AutoGradMode gradients(true);
  const SeededTraining seeded(lesson.context.seed);
  const auto& how = lesson.how;
  QuantizationAwareTraining student{model, Quantizer{}, lesson.context.calibration};
  auto optimizer = optimizer_of(student, how);
  const auto per_epoch = batches_of(how.data.epoch(0));
  const auto total = static_cast<double>(std::max<std::int64_t>(1, per_epoch * how.quantized_epochs));
  auto task = lesson.context.progress.start("train quantized", static_cast<std::size_t>(total));
  std::int64_t step = 0;
  double last = 0;
  for (std::int64_t epoch = 0; epoch < how.quantized_epochs; ++epoch) {
    student.train(model.can_train() && how.fit.batch_statistics);
    if (2 * epoch >= how.quantized_epochs) student.freeze_batch_norm();  // the second half trains what will be run
    last = 0;
    for (const auto& batch : how.data.epoch(epoch)) {
      set_rates(optimizer, how.quantized_rate * 0.5 *
                               (1 + std::cos(std::numbers::pi * std::min(1.0, static_cast<double>(step) / total))));
      optimizer.zero_grad();
      const auto loss = loss_of(student, lesson, batch);
      check_loss(loss, step - epoch * per_epoch, epoch);
      const auto value = loss.item<double>();
      if (!std::isfinite(value))
        fail("pare.pipeline.109", "", "the loss of training batch {} of epoch {} is {}: it must be a number",
             step - epoch * per_epoch, epoch, value);
      loss.backward();
      if (how.fit.clip > 0) torch::nn::utils::clip_grad_norm_(student.parameters(), how.fit.clip);
      optimizer.step();
      last += value / static_cast<double>(std::max<std::int64_t>(1, per_epoch));
      ++step;
      task.advance();
    }
  }
  student.eval();
  Applied applied{student.convert(), student.report()};
  applied.report.add(ReportRow{"(model)",
                               "training",
                               "QuantizationAwareTraining",
                               Decision::Done,
                               fmt::format("trained quantized in {} steps, mean loss {:.4g} in the end", step, last),
                               {}});
  return applied;
}

PARE_NAMESPACE_END
