#include "pare/mcu/compile.hpp"

#include <ATen/ATen.h>

#include <functional>

#include "core/seconds_since.hpp"
#include "execute/executor.hpp"
#include "execute/step_times.hpp"
#include "mcu/lowering.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

namespace {

const char* name_of(StepKind kind) {
  switch (kind) {
    case StepKind::Convolution:
      return "convolution";
    case StepKind::Linear:
      return "linear";
    case StepKind::MaxPool:
      return "max_pool";
    case StepKind::AveragePool:
      return "average_pool";
    case StepKind::Add:
      return "add";
    case StepKind::Copy:
      return "copy";
  }
  return "";
}

/// A step's tables as tensors: weights in float64, in which sums of products are exact, the rest in int64.
struct Tables {
  at::Tensor weights, multipliers, offsets;
};

Tables tables_of(const Step& step) {
  Tables tables{{}, at::tensor(step.multipliers, at::kLong), at::tensor(step.offsets, at::kLong)};
  if (step.weights.empty()) return tables;
  const auto outputs = static_cast<std::int64_t>(step.multipliers.size());
  tables.weights = at::tensor(step.weights, at::kChar).to(at::kDouble).view({outputs, -1});
  if (step.kind == StepKind::Convolution)
    tables.weights = tables.weights.view({outputs, -1, step.kernel_height, step.kernel_width});
  return tables;
}

// Of a batch, as the kernels see it.
std::vector<std::int64_t> sizes_of(const Shape& shape, std::int64_t batch) {
  return {batch, shape.channels, shape.height, shape.width};
}

/// Runs a program step by step on tensors of integers, held as float64.
class FixedPointExecutor final : public Executor {
 public:
  explicit FixedPointExecutor(const Model& model) : graph_(model.graph()), program_(Lowering(model).run()) {
    for (const auto& step : program_.steps) tables_.push_back(tables_of(step));
    const auto output = graph_.outputs()[0];
    for (const auto* node = graph_.producer(output); node != nullptr && follows_scores(*node);
         node = graph_.producer(node->input(0)))
      tail_.insert(tail_.begin(), node->id);
  }

  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, const Tap& tap) override {
    return run(inputs, tap, [](std::size_t) {});
  }

  ExecutionReport report() const override {
    ExecutionReport report{.backend = "fixed point, as on a microcontroller", .rows = {}};
    for (const auto& step : program_.steps)
      report.rows.push_back({.name = step.name,
                             .op = name_of(step.kind),
                             .fused = step.kind != StepKind::Add && step.inputs.size() > 1 ? "add" : "",
                             .precision = "int8",
                             .implementation = "exact sums on ATen",
                             .reason = {}});
    return report;
  }

  ExecutionProfile profile(const std::vector<at::Tensor>& inputs, double seconds) override {
    StepTimes times;
    const auto plain = [&] { static_cast<void>(run(inputs, {})); };
    times.repeat(seconds, plain, [&] {
      std::vector<double> row_ms(program_.steps.size(), 0.0);
      auto before = Clock::now();
      static_cast<void>(run(inputs, {}, [&](std::size_t step) {
        row_ms[step] = 1000 * seconds_since(before);
        before = Clock::now();
      }));
      return row_ms;
    });
    auto seen = report();
    return times.profile(seen.backend, std::move(seen.rows));
  }

  std::size_t weight_bytes() const override { return static_cast<std::size_t>(constant_bytes(program_)); }

  std::size_t resident_bytes() const override {
    std::size_t bytes = weight_bytes();  // the program's own
    for (const auto& tables : tables_)
      for (const auto* tensor : {&tables.weights, &tables.multipliers, &tables.offsets})
        if (tensor->defined()) bytes += tensor->nbytes();
    return bytes;
  }

 private:
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, const Tap& tap,
                              const std::function<void(std::size_t)>& done) const {
    const at::NoGradGuard no_grad;
    const auto dims = Interpreter::bind_dims(graph_, inputs);
    const auto& input = inputs.at(0);
    const auto quantized = quantize(input, program_.input.qparams).view(sizes_of(program_.input.shape, input.size(0)));
    std::vector<at::Tensor> buffers(program_.buffer_sizes.size());
    at::Tensor scores;
    for (std::size_t at = 0; at < program_.steps.size(); ++at) {
      const auto& step = program_.steps[at];
      const auto read = [&](const Activation& from) {
        const auto& held =
            from.place == Place::Input ? quantized : buffers[static_cast<std::size_t>(index(from.place))];
        return held.view(sizes_of(from.shape, input.size(0)));
      };
      if (step.output.place == Place::Output) {
        scores = at::bitwise_right_shift(totals(step, tables_[at], read), step.shift);
      } else {
        auto& buffer = buffers[static_cast<std::size_t>(index(step.output.place))];
        buffer = computed(step, tables_[at], read, buffer);
        if (tap && step.value != kNoValue) tap(step.value, dequantize(buffer, step, dims));
      }
      done(at);
    }
    return {result(scores, dims)};
  }

  using Read = std::function<at::Tensor(const Activation&)>;

  static at::Tensor quantize(const at::Tensor& input, const QParams& qparams) {
    const auto integers = at::nan_to_num(at::round(input.to(at::kDouble) / qparams.scale)) + qparams.zero_point;
    return integers.clamp(qparams.quant_min, qparams.quant_max).contiguous();
  }

  [[nodiscard]] at::Tensor dequantize(const at::Tensor& integers, const Step& step,
                                      const std::vector<std::int64_t>& dims) const {
    const auto& qparams = step.output.qparams;
    return ((integers - qparams.zero_point) * qparams.scale)
        .to(at::kFloat)
        .view(graph_.value(step.value).type.sizes_at(dims));
  }

  // Zeros around a window's reach; whatever no window reaches is cut off.
  static at::Tensor reached(const at::Tensor& values, const Step& step) {
    const auto need = [](std::int64_t out, std::int64_t stride, std::int64_t dilation, std::int64_t kernel) {
      return (out - 1) * stride + dilation * (kernel - 1) + 1;
    };
    const auto& out = step.output.shape;
    const auto height = need(out.height, step.stride_height, step.dilation_height, step.kernel_height);
    const auto width = need(out.width, step.stride_width, step.dilation_width, step.kernel_width);
    return at::constant_pad_nd(values, {step.pad_left, width - values.size(3) - step.pad_left, step.pad_top,
                                        height - values.size(2) - step.pad_top});
  }

  // In units of 2^-shift.
  static at::Tensor totals(const Step& step, const Tables& tables, const Read& read) {
    const auto centred = [&](std::size_t at) {
      return read(step.inputs[at]) - static_cast<double>(step.inputs[at].qparams.zero_point);
    };
    if (step.kind == StepKind::Add)
      return centred(0).to(at::kLong) * tables.multipliers[0] + centred(1).to(at::kLong) * tables.multipliers[1] +
             tables.offsets[0];
    at::Tensor sums;
    if (step.kind == StepKind::Convolution)
      sums = at::conv2d(reached(centred(0), step), tables.weights, {}, {step.stride_height, step.stride_width},
                        at::IntArrayRef{0, 0}, {step.dilation_height, step.dilation_width}, step.groups);
    else if (step.kind == StepKind::Linear)
      sums = at::matmul(centred(0).flatten(1), tables.weights.t()).view({-1, tables.weights.size(0), 1, 1});
    else
      sums = at::avg_pool2d(reached(centred(0), step), {step.kernel_height, step.kernel_width},
                            {step.stride_height, step.stride_width}, 0, false, true, 1);
    auto all = sums.to(at::kLong) * tables.multipliers.view({-1, 1, 1}) + tables.offsets.view({-1, 1, 1});
    if (step.inputs.size() > 1) all += centred(1).view(all.sizes()).to(at::kLong) * step.residual_multiplier;
    return all;
  }

  // What a buffer holds after a step; copies leave the other elements as they are.
  static at::Tensor computed(const Step& step, const Tables& tables, const Read& read, const at::Tensor& buffer) {
    if (step.kind == StepKind::Copy) {
      const auto part = read(step.inputs[0]);
      const auto whole = buffer.defined() ? buffer : at::zeros(sizes_of(step.output.shape, part.size(0)), at::kDouble);
      whole.flatten(1).narrow(1, step.target, step.inputs[0].shape.size()).copy_(part.flatten(1));
      return whole;
    }
    if (step.kind == StepKind::MaxPool)
      return at::max_pool2d(reached(read(step.inputs[0]), step), {step.kernel_height, step.kernel_width},
                            {step.stride_height, step.stride_width});
    return rounded(totals(step, tables, read), step.shift).clamp(step.low, step.high).to(at::kDouble).contiguous();
  }

  // Totals have a half added: one without anything behind the point was a tie, which goes to the even integer.
  static at::Tensor rounded(const at::Tensor& totals, int shift) {
    const auto integers = at::bitwise_right_shift(totals, shift);
    const auto tie = totals.bitwise_and((std::int64_t{1} << shift) - 1).eq(0);
    return integers - integers.bitwise_and(1) * tie;
  }

  // Scores as the Model gives them: in its shape, behind its last softmax if it has one.
  [[nodiscard]] at::Tensor result(const at::Tensor& scores, const std::vector<std::int64_t>& dims) const {
    const auto first = tail_.empty() ? graph_.outputs()[0] : graph_.node(tail_.front()).input(0);
    auto real =
        (scores.to(at::kDouble) * program_.output_scale).to(at::kFloat).view(graph_.value(first).type.sizes_at(dims));
    for (const auto id : tail_)
      real = Interpreter::call(graph_.node(id), dims, false, [&](ValueId) { return real; }).at(0);
    return real.contiguous();
  }

  Graph graph_;
  Program program_;
  std::vector<Tables> tables_;
  std::vector<NodeId> tail_;  // behind the scores
};

}  // namespace

CompiledModel compile(const Model& model) {
  const at::NoGradGuard no_grad;
  return CompiledModel(std::make_shared<FixedPointExecutor>(model));
}

}  // namespace mcu

PARE_NAMESPACE_END
