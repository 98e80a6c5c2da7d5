// Views, steps on ATen, embeddings, taps.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "core/vector_width.hpp"
#include "execute/onednn/layout.hpp"
#include "execute/onednn/plan_builder.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/interpreter.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;
using desc = memory::desc;

namespace {

// Whether a result may share its operand's memory.
bool may_alias(const Node& node) {
  // Those whose schema does not say so.
  constexpr std::array<std::string_view, 22> sometimes{
      "aten::reshape",           "aten::flatten",      "aten::contiguous",   "aten::to",
      "aten::expand_as",         "aten::unflatten",    "aten::chunk",        "aten::split",
      "aten::view_as",           "aten::reshape_as",   "aten::broadcast_to", "aten::type_as",
      "aten::broadcast_tensors", "aten::meshgrid",     "aten::atleast_1d",   "aten::atleast_2d",
      "aten::atleast_3d",        "aten::unsafe_chunk", "aten::unsafe_split", "aten::unsafe_split_with_sizes",
      "aten::sum_to_size",       "aten::einsum"};
  if (std::ranges::find(sometimes, node.op.base()) != sometimes.end()) return true;
  const auto& returns = node.op.schema().returns();
  return std::ranges::any_of(returns, [](const c10::Argument& one) { return one.alias_info() != nullptr; });
}

// Sizes of 1 may have any stride, by which ATen takes a single channel for channels last.
at::Tensor row_major_tensor(const at::Tensor& tensor) { return tensor.contiguous().flatten().view(tensor.sizes()); }

constexpr std::int64_t kRowsOfALookup = 16;

template <class Row>
void look_up(std::string_view name, const at::Tensor& indices, std::int64_t rows, std::int64_t columns, float* to,
             const Row& write_row) {
  const auto flat = indices.reshape({-1}).to(at::kLong).contiguous();
  const auto* from = flat.const_data_ptr<std::int64_t>();
  const auto count = flat.numel();
  for (std::int64_t i = 0; i < count; ++i)
    if (from[i] < 0 || from[i] >= rows)
      fail("pare.run.105", name, "index {} is out of range: the table has {} rows", from[i], rows);
#pragma omp parallel for if (count > kRowsOfALookup)
  for (std::int64_t i = 0; i < count; ++i) write_row(from[i], to + i * columns);
}

PARE_EACH_VECTOR_WIDTH void scale_row(const std::int8_t* from, float* to, std::int64_t count, float scale) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]) * scale;
}

}  // namespace

// The op itself, run on a tensor without data, says where its elements lie.
bool PlanBuilder::run_view(const ProgramStep& step, const Stored& source) {
  const auto& node = graph_.node(step.node);
  if (!is_plain(source.layout)) return false;
  auto dims = sizes(step.inputs[0]);
  auto strides = source.layout.get_strides();
  if (dims.empty()) strides.clear();
  const auto proxy = at::empty_strided(dims, strides, at::dtype(at::kByte).device(at::kMeta));
  std::vector<at::Tensor> results;
  try {
    results = Interpreter::call(node, plan_->dims, false, [&](ValueId) { return proxy; });
  } catch (const Error&) {
    return false;  // `view` refuses these strides
  }
  for (const auto& result : results) {
    if (!result.storage().is_alias_of(proxy.storage())) return false;
    for (std::int64_t d = 0; d < result.dim(); ++d)
      if (result.stride(d) < 1 && result.size(d) > 1) return false;  // broadcast
  }
  const auto type = source.layout.get_data_type();
  for (std::size_t i = 0; i < results.size(); ++i) {
    auto to_dims = results[i].sizes().vec();
    auto to_strides = results[i].strides().vec();
    if (to_dims.empty()) to_dims = to_strides = {1};
    const auto offset =
        source.offset + static_cast<std::size_t>(results[i].storage_offset()) * memory::data_type_size(type);
    store(step.outputs[i], {desc(to_dims, type, to_strides), source.buffer, offset, -1});
  }
  return true;
}

void PlanBuilder::emit_view(const ProgramStep& step) {
  const auto input = step.inputs[0];
  const auto& all = values_[index(input)];
  const auto& info = graph_.value(input);
  const bool float_value = info.type.dtype == c10::ScalarType::Float;
  if (!float_value || (!all.empty() && all.front().buffer < 0)) return emit_aten(step);
  const auto at_hand = stored(input);
  if (!run_view(step, at_hand)) {
    const auto type = at_hand.layout.get_data_type();
    const auto dense = row_major(input, type);
    if (!run_view(step, dense)) return emit_aten(step);
    row(step, "reorder", "-");
    return;
  }
  row(step, "view", "-");
}

void PlanBuilder::emit_aten(const ProgramStep& step) {
  const auto& node = graph_.node(step.node);
  std::vector<std::pair<ValueId, int>> reads;
  std::vector<int> tensors, buffers;
  std::unordered_map<std::size_t, int> by_value;
  std::unordered_map<std::size_t, at::Tensor> constants;
  std::unordered_map<std::size_t, IntegerTable> packed;
  for (const auto& operand : node.operands)
    operand.each_value([&](ValueId value) {
      const auto from = program_.root_of(value);
      if (const auto* known = read_constant(from)) {
        constants[index(value)] = *known;
        return;
      }
      if (const auto found = program_.packed.find(index(from)); found != program_.packed.end()) {
        packed[index(value)] = found->second;
        return;
      }
      const auto tensor = tensor_of(from, may_alias(node));
      by_value[index(value)] = tensor;
      tensors.push_back(tensor);
    });
  if (may_alias(node)) {  // the result may outlive what it was read from
    for (const auto tensor : tensors)
      if (const auto buffer = plan_->tensors[static_cast<std::size_t>(tensor)].buffer; buffer >= 0)
        plan_->buffers[static_cast<std::size_t>(buffer)].last = std::numeric_limits<std::size_t>::max();
  }
  std::vector<int> made;
  std::vector<std::vector<std::int64_t>> expected;
  for (const auto output : step.outputs) {
    made.push_back(static_cast<int>(plan_->tensors.size()));
    plan_->tensors.push_back({});
    expected.push_back(sizes(output));
  }
  auto produced = tensors;
  produced.insert(produced.end(), made.begin(), made.end());
  const auto id = step.node;
  // `contiguous()` is an alias here, so what it made dense before such an op is made dense now.
  // Volumes with channels last, as kernels leave them, some of ATen's operators refuse or compute otherwise.
  bool dense = node.is("aten::view") || node.is("aten::_unsafe_view") || node.is("aten::view_as_complex") ||
               node.is("aten::as_strided");
  for (const auto& operand : node.operands)
    operand.each_value([&](ValueId value) { dense |= graph_.value(value).type.rank() == 5; });
  call(
      [id, dense, by_value, constants, packed, made, expected](PlanInstance& instance) {
        const auto& plan = instance.plan();
        const auto& node = plan.program->graph.node(id);
        auto results = Interpreter::call(node, plan.dims, false, [&](ValueId value) -> at::Tensor {
          if (const auto found = by_value.find(index(value)); found != by_value.end())
            return dense ? row_major_tensor(instance.tensor(found->second)) : instance.tensor(found->second);
          if (const auto found = packed.find(index(value)); found != packed.end())
            return found->second.integers.to(at::kFloat).mul_(found->second.scale);
          const auto constant = constants.find(index(value));
          return constant == constants.end() ? at::Tensor() : constant->second;
        });
        for (std::size_t i = 0; i < made.size(); ++i) {
          if (results[i].defined() && results[i].sizes() != at::IntArrayRef(expected[i]))
            fail("pare.execute.103", node.name,
                 "{} returned a tensor of another size than at capture: its shape depends "
                 "on data, so the model can only run uncompiled",
                 node.op.name());
          instance.set_tensor(made[i], std::move(results[i]));
        }
      },
      {}, produced);
  for (std::size_t i = 0; i < made.size(); ++i) {
    Stored result;
    result.tensor = made[i];
    store(step.outputs[i], result);
    const bool is_float = graph_.value(step.outputs[i]).type.dtype == c10::ScalarType::Float;
    if (is_float && quantization(step.outputs[i]) && !expected[i].empty()) quantize_result(step.outputs[i]);
  }
  auto reported = step;
  if (reported.reason.empty()) reported.reason = "its operand was made by ATen";
  row(reported, "aten", "float32");
}

void look_up(const ProgramStep& step, std::string_view name, const at::Tensor& indices, float* to) {
  if (step.rows)
    return look_up(name, indices, step.rows->outputs, step.rows->features, to,
                   [&](std::int64_t row, float* numbers) { step.rows->numbers(row, 1, numbers); });
  const auto& integers = step.table.integers;
  const auto columns = integers.size(1);
  const auto* all = integers.const_data_ptr<std::int8_t>();
  const auto* scale = step.table.scale.const_data_ptr<float>();
  look_up(name, indices, integers.size(0), columns, to,
          [&](std::int64_t row, float* numbers) { scale_row(all + row * columns, numbers, columns, scale[row]); });
}

void PlanBuilder::emit_embedding(const ProgramStep& step) {
  const auto ids = tensor_of(step.inputs[0]);
  const auto output = step.outputs[0];
  const auto dims = sizes(output);
  const auto result = allocate(desc(dims, data_type::f32, row_major_strides(dims)));
  call(
      [ids, to = result.buffer, &step, &node = graph_.node(step.node)](PlanInstance& instance) {  // kept by the plan
        look_up(step, node.name, instance.tensor(ids), reinterpret_cast<float*>(instance.pointer(to)));
      },
      {result.buffer}, {ids});
  store(output, result);
  row(step, !step.rows ? "int8_rows" : step.rows->bits == 4 ? "int4_lookup" : "int8_lookup", "int8");
  quantize_result(output);
}

// A copy of each result for the tap, float32 and row-major.
void PlanBuilder::emit_tap(const ProgramStep& step) {
  for (const auto output : step.outputs) {
    const auto tensor = tensor_of(output);
    call(
        [output, tensor](PlanInstance& instance) {
          if (const auto& value = instance.tensor(tensor); instance.tap() && value.defined())
            instance.tap()(output, value.clone(at::MemoryFormat::Contiguous));
        },
        {}, {tensor});
  }
}

PARE_NAMESPACE_END
