#include "execute/onednn/plan_builder.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "execute/onednn/layout.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;

std::shared_ptr<const ExecutionPlan> build_plan(std::shared_ptr<const Program> program, std::vector<std::int64_t> dims,
                                                bool tapped, const ExecutionPlan* like) {
  return PlanBuilder(std::move(program), std::move(dims), tapped, like).build();
}

dnnl::primitive_attr with_scratchpad() {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

bool is_reference(const dnnl::primitive_desc_base& description) {
  return std::string_view(description.impl_info_str()).starts_with("ref");
}

PlanBuilder::PlanBuilder(std::shared_ptr<const Program> program, std::vector<std::int64_t> dims, bool tapped,
                         const ExecutionPlan* like)
    : plan_(std::make_shared<ExecutionPlan>()), program_(*program), graph_(program->graph), tapped_(tapped) {
  plan_->program = std::move(program);
  if (like != nullptr) plan_->kernels = like->kernels;
  plan_->dims = std::move(dims);
  plan_->input_tensors.assign(graph_.inputs().size(), -1);
  values_.resize(graph_.value_count());
  last_use_.resize(graph_.value_count(), 0);
  use_count_.resize(graph_.value_count(), 0);
  for (std::size_t i = 0; i < program_.steps.size(); ++i) {
    const auto use = [&](ValueId value) {
      if (value == kNoValue) return;
      last_use_[index(value)] = i;
      ++use_count_[index(value)];
    };
    const auto& step = program_.steps[i];
    for (const auto value : step.inputs) use(value);
    for (const auto& post : step.post) use(post.other);
    use(step.residual);
  }
  for (const auto output : graph_.outputs())
    if (output != kNoValue) {
      last_use_[index(program_.root_of(output))] = std::numeric_limits<std::size_t>::max();
      ++use_count_[index(program_.root_of(output))];
    }
}

std::shared_ptr<const ExecutionPlan> PlanBuilder::build() {
  for (position_ = 0; position_ < program_.steps.size(); ++position_) {
    const auto first = plan_->calls.size();
    emit(program_.steps[position_]);
    if (tapped_) emit_tap(program_.steps[position_]);
    for (auto call = first; call < plan_->calls.size(); ++call)
      plan_->calls[call].row = plan_->rows.empty() ? 0 : plan_->rows.size() - 1;
  }
  const auto converted = plan_->calls.size();
  finish_outputs();
  for (auto call = converted; call < plan_->calls.size(); ++call) plan_->calls[call].row = plan_->rows.size();
  finish_lives();
  plan_->arena_bytes = assign_offsets(plan_->buffers);
  return plan_;
}

void PlanBuilder::emit(const ProgramStep& step) {
  try {
    if (fold(step)) return;
    switch (step.kind) {
      case StepKind::Aten:
        return emit_aten(step);
      case StepKind::View:
        return emit_view(step);
      case StepKind::Convolution:
        check_window(step);
        return emit_convolution(step);
      case StepKind::Deconvolution:
        check_window(step);
        return emit_deconvolution(step);
      case StepKind::Linear:
        return emit_linear(step);
      case StepKind::IntegerRows:
        return emit_integer_rows(step);
      case StepKind::MatMul:
        return emit_product(step);
      case StepKind::Binary:
        return emit_binary(step);
      case StepKind::ChannelAffine:
        return emit_channel_affine(step);
      case StepKind::Recurrent:
        return emit_recurrent(step);
      case StepKind::Eltwise:
        return emit_eltwise(step);
      case StepKind::Pooling:
        check_window(step);
        return emit_pooling(step);
      case StepKind::SpatialMean:
        return emit_mean(step);
      case StepKind::LayerNorm:
        return emit_layer_norm(step);
      case StepKind::Softmax:
        return emit_softmax(step);
      case StepKind::Concat:
        return emit_concat(step);
      case StepKind::Quantize:
        return emit_quantize(step);
      case StepKind::Embedding:
        return emit_embedding(step);
    }
  } catch (const dnnl::error& error) {
    fail("pare.execute.104", graph_.node(step.node).name, "oneDNN refuses {} at these sizes: {}",
         graph_.node(step.node).op.name(), error.what());
  }
}

// oneDNN makes nothing of windows that do not fit, and does not say so.
void PlanBuilder::check_window(const ProgramStep& step) const {
  const auto result = sizes(step.outputs[0]);
  if (std::any_of(result.begin() + 2, result.end(), [](std::int64_t size) { return size < 1; }))
    fail("pare.execute.104", graph_.node(step.node).name, "windows of {} do not fit into [{}]",
         graph_.node(step.node).op.name(), fmt::join(sizes(step.inputs[0]), ", "));
}

void PlanBuilder::call(const dnnl::primitive& primitive, const dnnl::primitive_desc_base& description,
                       std::vector<PlanArgument> arguments) {
  const auto now = plan_->calls.size();
  const auto scratch = description.scratchpad_desc();
  if (scratch.get_size() > 0) arguments.push_back(argument(DNNL_ARG_SCRATCHPAD, allocate(scratch)));
  for (const auto& argument : arguments) {
    if (argument.buffer < 0) continue;
    auto& buffer = plan_->buffers[static_cast<std::size_t>(argument.buffer)];
    buffer.first = std::min(buffer.first, now);
    buffer.last = std::max(buffer.last, now);
  }
  PlanCall call;
  call.primitive = primitive;
  call.arguments = std::move(arguments);
  plan_->calls.push_back(std::move(call));
}

void PlanBuilder::call(std::function<void(PlanInstance&)> function, const std::vector<int>& buffers,
                       const std::vector<int>& tensors) {
  const auto now = plan_->calls.size();
  const auto touch = [&](int number) {
    auto& buffer = plan_->buffers[static_cast<std::size_t>(number)];
    buffer.first = std::min(buffer.first, now);
    buffer.last = std::max(buffer.last, now);
  };
  for (const auto buffer : buffers) touch(buffer);
  for (const auto tensor : tensors) {
    tensor_uses_.emplace_back(now, tensor);
    if (const auto buffer = plan_->tensors[static_cast<std::size_t>(tensor)].buffer; buffer >= 0) touch(buffer);
  }
  PlanCall call;
  call.function = std::move(function);
  plan_->calls.push_back(std::move(call));
}

void PlanBuilder::finish_outputs() {
  using Kind = PlanBuffer::Kind;
  position_ = program_.steps.size();
  for (const auto output : graph_.outputs()) {
    PlanOutput result;
    const auto number = static_cast<int>(plan_->outputs.size());
    if (output == kNoValue) {
      plan_->outputs.push_back(result);
      continue;
    }
    const auto value = program_.root_of(output);
    result.sizes = sizes(value);
    if (const auto* known = read_constant(value)) {
      result.constant = *known;
    } else if (graph_.value(value).type.dtype != c10::ScalarType::Float || result.sizes.empty() ||
               graph_.value(value).kind == ValueKind::Input || values_[index(value)].front().buffer < 0) {
      result.tensor = tensor_of(value);
    } else {
      const auto made = row_major(value, data_type::f32);
      auto& buffer = plan_->buffers[static_cast<std::size_t>(made.buffer)];
      if (buffer.kind == Kind::Arena && made.offset == 0 && buffer.bytes == made.layout.get_size() &&
          buffer.last != std::numeric_limits<std::size_t>::max()) {
        buffer.kind = Kind::Output;
        buffer.number = number;
        result.buffer = made.buffer;
      } else {
        const Stored target{
            made.layout, new_buffer({.kind = Kind::Output, .bytes = made.layout.get_size(), .number = number}), 0, -1};
        reorder(made, target, std::nullopt, std::nullopt);
        result.buffer = target.buffer;
      }
    }
    plan_->outputs.push_back(result);
  }
}

// Tensors made while running are dropped after their last reader.
void PlanBuilder::finish_lives() {
  std::vector<std::size_t> last(plan_->tensors.size(), 0);
  for (const auto& [call, tensor] : tensor_uses_)
    last[static_cast<std::size_t>(tensor)] = std::max(last[static_cast<std::size_t>(tensor)], call);
  std::vector<bool> keep(plan_->tensors.size(), false);
  for (const auto& output : plan_->outputs)
    if (output.tensor >= 0) keep[static_cast<std::size_t>(output.tensor)] = true;
  for (const auto& buffer : plan_->buffers)
    if (buffer.kind == PlanBuffer::Kind::Tensor) keep[static_cast<std::size_t>(buffer.number)] = true;
  for (std::size_t t = 0; t < last.size(); ++t)
    if (!keep[t] && plan_->tensors[t].buffer < 0 && !plan_->tensors[t].constant.defined() && !plan_->calls.empty())
      plan_->calls[last[t]].releases.push_back(static_cast<int>(t));
}

std::string_view PlanBuilder::precision_of(const ProgramStep& step, bool integers) const {
  return integers ? "int8" : step.dtype == c10::ScalarType::BFloat16 ? "bf16" : "float32";
}

void PlanBuilder::row(const ProgramStep& step, std::string implementation, std::string_view precision) {
  const auto& node = graph_.node(step.node);
  std::string fused;
  for (const auto id : step.absorbed) {
    if (id == step.node) continue;
    if (!fused.empty()) fused += ", ";
    auto base = graph_.node(id).op.base();
    fused += base.substr(base.find("::") + 2);
  }
  plan_->rows.push_back(
      {node.name, node.op.name(), fused, std::string(precision), std::move(implementation), step.reason});
}

PARE_NAMESPACE_END
