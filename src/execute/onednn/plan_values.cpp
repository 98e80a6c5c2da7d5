#include <ATen/ATen.h>

#include <algorithm>

#include "execute/onednn/image_kernels.hpp"
#include "execute/onednn/layout.hpp"
#include "execute/onednn/plan_builder.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;
using desc = memory::desc;

memory::dims PlanBuilder::sizes(ValueId value) const { return graph_.value(value).type.sizes_at(plan_->dims); }

const std::optional<Quantization>& PlanBuilder::quantization(ValueId value) const {
  return program_.quantization[index(value)];
}

int PlanBuilder::new_buffer(PlanBuffer buffer) {
  plan_->buffers.push_back(std::move(buffer));
  return static_cast<int>(plan_->buffers.size()) - 1;
}

PlanBuilder::Stored PlanBuilder::allocate(const desc& layout) {
  return {layout, new_buffer({.bytes = std::max<std::size_t>(layout.get_size(), 1)}), 0, -1};
}

void PlanBuilder::store(ValueId value, Stored stored) {
  auto& all = values_[index(value)];
  all.insert(all.begin(), std::move(stored));
}

memory PlanBuilder::scalar(float value) {
  memory result({{1}, data_type::f32, memory::format_tag::a}, cpu_engine());
  *static_cast<float*>(result.get_data_handle()) = value;
  return result;
}

memory PlanBuilder::scalar(std::int32_t value) {
  memory result({{1}, data_type::s32, memory::format_tag::a}, cpu_engine());
  *static_cast<std::int32_t*>(result.get_data_handle()) = value;
  return result;
}

// How a value was made; inputs, constants and tensors of ATen get a buffer when a kernel first reads them.
PlanBuilder::Stored& PlanBuilder::stored(ValueId value) {
  auto& all = values_[index(value)];
  if (all.empty()) {
    const auto dims = sizes(value);
    const auto shape = dims.empty() ? memory::dims{1} : dims;
    const desc layout(shape, data_type::f32, row_major_strides(shape));
    if (const auto* known = read_constant(value)) {
      all.push_back({layout, new_buffer({.kind = PlanBuffer::Kind::Constant, .pointer = known->data_ptr()}), 0, -1});
    } else if (graph_.value(value).kind == ValueKind::Input) {
      const auto number = static_cast<int>(graph_.value(value).position);
      all.push_back({layout, new_buffer({.kind = PlanBuffer::Kind::Input, .number = number}), 0, -1});
    } else {
      fail("pare.execute.102", graph_.producer(value) ? graph_.producer(value)->name : "", "its result was never made");
    }
  }
  if (all.front().buffer < 0) {
    const auto source = all.front().tensor;
    const auto copy = static_cast<int>(plan_->tensors.size());
    plan_->tensors.push_back({});
    const auto buffer = new_buffer({.kind = PlanBuffer::Kind::Tensor, .number = copy});
    auto dims = sizes(value);
    if (dims.empty()) dims = {1};
    call(
        [source, copy, buffer](PlanInstance& instance) {
          instance.set_tensor(copy, instance.tensor(source).contiguous().resolve_neg());
          instance.bind(buffer, instance.tensor(copy).data_ptr());
          instance.bind_tensors(buffer);
        },
        {}, {source});
    values_[index(value)].front() = {desc(dims, data_type::f32, row_major_strides(dims)), buffer, 0, source};
  }
  return values_[index(value)].front();
}

std::string PlanBuilder::reorder(const Stored& from, const Stored& to, const std::optional<Quantization>& read,
                                 const std::optional<Quantization>& write) {
  if (write && !read && quantize_floats_of(from, to, *write)) return "quantize_floats";
  auto attr = with_scratchpad();
  std::vector<PlanArgument> arguments{argument(DNNL_ARG_FROM, from), argument(DNNL_ARG_TO, to)};
  const auto scaled = [&](int side, const Quantization& quantization) {
    attr.set_scales_mask(side, 0);
    arguments.push_back(argument(DNNL_ARG_ATTR_SCALES | side, scalar(quantization.scale)));
    if (quantization.zero_point == 0) return;
    attr.set_zero_points_mask(side, 0);
    arguments.push_back(argument(DNNL_ARG_ATTR_ZERO_POINTS | side, scalar(std::int32_t{quantization.zero_point})));
  };
  if (read) scaled(DNNL_ARG_FROM, *read);
  if (write) scaled(DNNL_ARG_TO, *write);
  const dnnl::reorder::primitive_desc description(cpu_engine(), from.layout, cpu_engine(), to.layout, attr);
  call(dnnl::reorder(description), description, std::move(arguments));
  return description.impl_info_str();
}

// Floats onto a grid: first where they lie, then as integers to where they belong.
bool PlanBuilder::quantize_floats_of(const Stored& from, const Stored& to, const Quantization& grid) {
  if (from.layout.get_data_type() != data_type::f32 || !is_plain(from.layout) || !is_dense(from.layout)) return false;
  const auto unmoved = with_type(from.layout, to.layout.get_data_type());
  const auto target = unmoved == to.layout ? to : allocate(unmoved);
  call(
      [=, count = static_cast<std::int64_t>(from.layout.get_size() / sizeof(float))](PlanInstance& instance) {
        quantize_floats(reinterpret_cast<const float*>(instance.pointer(from.buffer) + from.offset),
                        reinterpret_cast<std::uint8_t*>(instance.pointer(target.buffer) + target.offset), count, grid);
      },
      {from.buffer, target.buffer});
  if (target.buffer != to.buffer) reorder(target, to, std::nullopt, std::nullopt);
  return true;
}

PlanBuilder::Stored PlanBuilder::in_layout(ValueId value, const desc& layout) {
  stored(value);
  for (const auto& one : values_[index(value)])
    if (one.buffer >= 0 && one.layout == layout) return one;
  const auto from = stored(value);
  const auto to = allocate(layout);
  const auto& quantized = quantization(value);
  const bool from_integer = is_integer(from.layout.get_data_type()), to_integer = is_integer(layout.get_data_type());
  if (from_integer == to_integer) {
    reorder(from, to, std::nullopt, std::nullopt);
  } else {
    reorder(from, to, from_integer ? quantized : std::nullopt, to_integer ? quantized : std::nullopt);
  }
  values_[index(value)].push_back(to);
  return to;
}

PlanBuilder::Stored PlanBuilder::typed(ValueId value, data_type type) {
  const auto& first = stored(value);
  if (first.layout.get_data_type() == type) return first;
  for (const auto& one : values_[index(value)])
    if (one.buffer >= 0 && one.layout.get_data_type() == type) return one;
  // A dense copy: strides of a slice or a broadcast do not carry over.
  auto layout = with_type(first.layout, type);
  if (!is_dense(layout)) layout = {layout.get_dims(), type, row_major_strides(layout.get_dims())};
  return in_layout(value, layout);
}

PlanBuilder::Stored PlanBuilder::row_major(ValueId value, data_type type) {
  stored(value);
  const auto dims = stored(value).layout.get_dims();
  const desc layout(dims, type, row_major_strides(dims));
  for (auto one : values_[index(value)])
    if (one.buffer >= 0 && one.layout.get_data_type() == type && reads_row_major(one.layout)) {
      one.layout = layout;
      return one;
    }
  return in_layout(value, layout);
}

PlanBuilder::Stored PlanBuilder::shaped(ValueId value, data_type type, const memory::dims& dims) {
  auto result = row_major(value, type);
  result.layout = desc(dims, type, row_major_strides(dims));
  return result;
}

PlanBuilder::data_type PlanBuilder::native_type(ValueId value, const ProgramStep& step) const {
  if (const auto& quantized = quantization(value)) return quantized->type();
  return onednn_type(step.dtype);
}

bool PlanBuilder::is_last_use(int buffer) const {
  const auto& memory = plan_->buffers[static_cast<std::size_t>(buffer)];
  if (memory.kind != PlanBuffer::Kind::Arena || memory.last == std::numeric_limits<std::size_t>::max()) return false;
  for (std::size_t value = 0; value < values_.size(); ++value)
    for (const auto& one : values_[value])
      if (one.buffer == buffer && last_use_[value] > position_) return false;
  return true;
}

int PlanBuilder::tensor_for(const Stored& stored, const memory::dims& dims) {
  auto strides = stored.layout.get_strides();
  if (dims.empty()) strides.clear();
  const auto number = static_cast<int>(plan_->tensors.size());
  plan_->tensors.push_back({stored.buffer, stored.offset, dims, strides, torch_type(stored.layout.get_data_type())});
  return number;
}

// A kernel that computes in float stored its result: put it on its grid and forget the float one, which lies off it.
void PlanBuilder::quantize_result(ValueId value) {
  const auto& quantized = quantization(value);
  if (!quantized || is_integer(stored(value).layout.get_data_type())) return;
  const auto integers = typed(value, quantized->type());
  values_[index(value)] = {integers};
}

// A value as ATen reads it: float32 at strides (row-major if `dense`), or what ATen made itself.
int PlanBuilder::tensor_of(ValueId value, bool dense) {
  const auto& info = graph_.value(value);
  auto& all = values_[index(value)];
  for (const auto& one : all)
    if (one.tensor >= 0 && (!dense || one.layout.get_ndims() == 0 || reads_row_major(one.layout))) return one.tensor;
  if (info.kind == ValueKind::Input) {
    auto& number = plan_->input_tensors[info.position];
    if (number < 0) {
      number = static_cast<int>(plan_->tensors.size());
      plan_->tensors.push_back({});
    }
    return number;
  }
  if (const auto* known = read_constant(value); known != nullptr && info.type.dtype != c10::ScalarType::Float) {
    plan_->tensors.push_back({.constant = *known});
    return static_cast<int>(plan_->tensors.size()) - 1;
  }
  auto source = typed(value, data_type::f32);
  if (dense || !is_plain(source.layout)) source = row_major(value, data_type::f32);
  const auto number = tensor_for(source, sizes(value));
  for (auto& one : values_[index(value)])
    if (one.buffer == source.buffer && one.layout == source.layout && one.offset == source.offset) one.tensor = number;
  return number;
}

PARE_NAMESPACE_END
