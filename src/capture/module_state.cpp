#include "capture/module_state.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Functions.h>

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <mutex>
#include <optional>

PARE_NAMESPACE_BEGIN

namespace {

at::Tensor random_state(at::Device device) {
  auto generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(at::Device device, const at::Tensor& state) {
  auto generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

}  // namespace

ModuleState::ModuleState(torch::nn::Module& module) : module_(module) {
  random_.emplace_back(at::kCPU, random_state(at::kCPU));
  const auto add_device = [&](const at::Tensor& tensor) {
    if (!tensor.defined() || !(tensor.is_cpu() || tensor.is_cuda())) return;
    const auto known = [&](const auto& entry) { return entry.first == tensor.device(); };
    if (std::ranges::none_of(random_, known)) random_.emplace_back(tensor.device(), random_state(tensor.device()));
  };
  for (const auto& parameter : module.parameters()) add_device(parameter);
  // Not include_self: that asks for a shared_ptr, which a module on the stack has not.
  flags_.emplace_back(&module, module.is_training());
  for (auto& child : module.modules(/*include_self=*/false)) flags_.emplace_back(child.get(), child->is_training());
  for (auto& buffer : module.buffers())
    if (buffer.defined()) saved_.push_back({buffer, buffer.detach(), buffer.detach().clone()});
  buffers_ = saved_.size();
}

void ModuleState::remember(const at::Tensor& tensor) {
  if (std::ranges::none_of(saved_, [&](const Saved& saved) { return saved.tensor.is_same(tensor); }))
    saved_.push_back({tensor, tensor.detach(), tensor.detach().clone()});
}

ModuleState::~ModuleState() {
  // Parents first: train() reaches the children, whose own flags then have the last word.
  for (auto& [child, training] : flags_)
    if (child->is_training() != training) child->train(training);
  for (auto& [child, training] : flags_)
    if (child->is_training() != training) child->train(training);
  try {
    restore();
  } catch (const std::exception&) {  // a destructor may not throw, and an error is on its way already
  }
}

void ModuleState::restore() {
  const at::NoGradGuard no_grad;
  for (auto& saved : saved_) {
    std::optional<c10::InferenceMode> inference;
    if (saved.tensor.is_inference()) inference.emplace();  // made in it, written in it
    const bool moved = (saved.tensor.has_storage() && !saved.tensor.is_alias_of(saved.memory)) ||
                       saved.tensor.sizes() != saved.memory.sizes() || saved.tensor.strides() != saved.memory.strides();
    if (moved) saved.tensor.set_(saved.memory);
    // By content: batch_norm writes its running statistics without touching the version counter.
    if (!at::equal(saved.tensor, saved.copy)) saved.tensor.copy_(saved.copy);
  }
  seed();
}

void ModuleState::seed() const {
  for (const auto& [device, state] : random_) set_random_state(device, state);
}

ModuleTensors module_tensors(torch::nn::Module& module) {
  ModuleTensors tensors;
  const auto add = [&](const std::string& path, const at::Tensor& tensor, bool is_parameter) {
    if (!tensor.defined()) return;
    for (auto& entry : tensors.entries) {
      if (!entry.tensor.is_same(tensor)) continue;
      entry.aliases.push_back(path);
      return;
    }
    tensors.entries.push_back({path, tensor, is_parameter, {}});
  };
  const auto add_own = [&](const torch::nn::Module& owner, const std::string& prefix) {
    for (const auto& item : owner.named_parameters(/*recurse=*/false)) add(prefix + item.key(), item.value(), true);
    for (const auto& item : owner.named_buffers(/*recurse=*/false)) add(prefix + item.key(), item.value(), false);
  };
  add_own(module, "");
  for (const auto& child : module.named_modules("", /*include_self=*/false)) add_own(*child.value(), child.key() + ".");
  return tensors;
}

PARE_NAMESPACE_END
