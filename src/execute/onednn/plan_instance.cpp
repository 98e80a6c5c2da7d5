#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "execute/onednn/plan.hpp"
#include "execute/onednn/team_spread.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::chrono::milliseconds kBetweenSpreads{2};  // threads that meet on one CPU stall for longer
constexpr std::size_t kAlignment = 64;
constexpr std::size_t rounded(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

// Greedy by size: the largest buffer first, each at the lowest offset where no buffer alive with it lies.
std::size_t assign_offsets(std::vector<PlanBuffer>& buffers) {
  std::vector<PlanBuffer*> order, placed;
  for (auto& buffer : buffers)
    if (buffer.kind == PlanBuffer::Kind::Arena && buffer.first <= buffer.last) order.push_back(&buffer);
  std::ranges::stable_sort(order, std::ranges::greater{}, &PlanBuffer::bytes);
  std::size_t total = 0;
  for (auto* buffer : order) {
    std::size_t offset = 0;
    for (const auto* other : placed) {  // by offset
      if (other->last < buffer->first || buffer->last < other->first) continue;
      if (offset + rounded(buffer->bytes) <= other->offset) break;
      offset = std::max(offset, other->offset + rounded(other->bytes));
    }
    buffer->offset = offset;
    total = std::max(total, offset + rounded(buffer->bytes));
    placed.insert(std::ranges::upper_bound(placed, offset, {}, &PlanBuffer::offset), buffer);
  }
  return total;
}

PlanInstance::PlanInstance(std::shared_ptr<const ExecutionPlan> plan)
    : plan_(std::move(plan)), arena_(std::max<std::size_t>(plan_->arena_bytes, 1)), stream_(cpu_engine()) {
  const auto& buffers = plan_->buffers;
  pointers_.resize(buffers.size(), nullptr);
  bindings_.resize(buffers.size());
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    if (buffers[i].kind == PlanBuffer::Kind::Arena) pointers_[i] = arena_.data() + buffers[i].offset;
    if (buffers[i].kind == PlanBuffer::Kind::Constant) pointers_[i] = buffers[i].pointer;
  }
  for (const auto& call : plan_->calls) {
    auto& arguments = arguments_.emplace_back();
    for (const auto& argument : call.arguments) {
      if (argument.buffer < 0) {
        arguments.push_back({argument.argument, argument.constant.get()});
        continue;
      }
      const auto buffer = static_cast<std::size_t>(argument.buffer);
      auto* base = static_cast<char*>(pointers_[buffer]);
      dnnl::memory memory(argument.layout, cpu_engine(), base ? base + argument.offset : nullptr);
      if (!base) bindings_[buffer].push_back({memory, argument.offset});
      arguments.push_back({argument.argument, memory.get()});
      memories_.push_back(std::move(memory));
    }
  }
  tensors_.resize(plan_->tensors.size());
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const auto& tensor = plan_->tensors[i];
    tensors_[i] = tensor.buffer >= 0 && pointer(tensor.buffer) != nullptr ? view_of(tensor) : tensor.constant;
  }
}

void PlanInstance::run_call(std::size_t number) {
  const auto& call = plan_->calls[number];
  if (call.function) {
    call.function(*this);
  } else {
    const auto& arguments = arguments_[number];
    dnnl::error::wrap_c_api(dnnl_primitive_execute(call.primitive.get(), stream_.get(),
                                                   static_cast<int>(arguments.size()), arguments.data()),
                            "a primitive failed");
  }
  for (const auto tensor : call.releases) tensors_[static_cast<std::size_t>(tensor)] = at::Tensor();
}

void PlanInstance::time_calls(std::vector<double>& row_ms) {
  row_ms.assign(plan_->rows.size() + 1, 0.0);
  auto before = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < plan_->calls.size(); ++i) {
    run_call(i);
    const auto after = std::chrono::steady_clock::now();
    row_ms[plan_->calls[i].row] += std::chrono::duration<double, std::milli>(after - before).count();
    before = after;
  }
}

void PlanInstance::run_calls(bool spread) {
  auto checked = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < plan_->calls.size(); ++i) {
    run_call(i);
    if (!spread) continue;
    if (const auto now = std::chrono::steady_clock::now(); now - checked > kBetweenSpreads) {
      spread_team();
      checked = std::chrono::steady_clock::now();
    }
  }
}

at::Tensor PlanInstance::view_of(const PlanTensor& tensor) {
  return at::from_blob(pointer(tensor.buffer) + tensor.offset, tensor.sizes, tensor.strides, at::dtype(tensor.dtype));
}

void PlanInstance::bind_tensors(int buffer) {
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    if (plan_->tensors[i].buffer == buffer) tensors_[i] = view_of(plan_->tensors[i]);
}

void PlanInstance::bind(int buffer, void* pointer) {
  const auto at = static_cast<std::size_t>(buffer);
  if (pointers_[at] == pointer) return;
  pointers_[at] = pointer;
  for (auto& binding : bindings_[at]) binding.memory.set_data_handle(static_cast<char*>(pointer) + binding.offset);
}

std::vector<at::Tensor> PlanInstance::run(const std::vector<at::Tensor>& inputs, const Tap& tap, bool spread,
                                          std::vector<double>* row_ms) {
  tap_ = &tap;
  const auto& buffers = plan_->buffers;
  std::vector<at::Tensor> kept;  // inputs made contiguous
  std::vector<at::Tensor> results(plan_->outputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (plan_->input_tensors[i] >= 0) set_tensor(plan_->input_tensors[i], inputs[i]);
  for (std::size_t i = 0; i < plan_->outputs.size(); ++i)
    if (plan_->outputs[i].buffer >= 0) results[i] = at::empty(plan_->outputs[i].sizes, at::kFloat);
  for (std::size_t b = 0; b < buffers.size(); ++b) {
    if (buffers[b].kind == PlanBuffer::Kind::Input) {
      kept.push_back(inputs[static_cast<std::size_t>(buffers[b].number)].contiguous().resolve_neg());
      bind(static_cast<int>(b), kept.back().data_ptr());
    } else if (buffers[b].kind == PlanBuffer::Kind::Output) {
      bind(static_cast<int>(b), results[static_cast<std::size_t>(buffers[b].number)].data_ptr());
    }
  }
  const auto moves = [&](int buffer) {
    const auto kind = buffers[static_cast<std::size_t>(buffer)].kind;
    return kind == PlanBuffer::Kind::Input || kind == PlanBuffer::Kind::Output;
  };
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    if (const auto& tensor = plan_->tensors[i]; tensor.buffer >= 0 && moves(tensor.buffer))
      tensors_[i] = view_of(tensor);
  if (row_ms != nullptr) {
    time_calls(*row_ms);
  } else {
    run_calls(spread);
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    const auto& output = plan_->outputs[i];
    if (output.constant.defined()) results[i] = output.constant.clone();
    if (output.tensor >= 0) {
      results[i] = tensor(output.tensor);
      if (!results[i].defined()) continue;
      // Only memory that nothing else reads leaves: not the arena's, a constant's, an input's or another output's.
      // Handles of one tensor share their reference to its memory: the plan's own is the second.
      const auto& storage = results[i].storage();
      const bool alone =
          results[i].use_count() == 2 && storage.use_count() == 1 && storage.data_ptr().get_context() != nullptr;
      results[i] = alone ? results[i].contiguous() : results[i].clone(at::MemoryFormat::Contiguous);
    }
  }
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    if (plan_->tensors[i].buffer < 0) tensors_[i] = plan_->tensors[i].constant;
  tap_ = nullptr;
  return results;
}

PARE_NAMESPACE_END
