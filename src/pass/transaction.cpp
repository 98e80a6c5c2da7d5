#include "pare/pass/transaction.hpp"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/grad_mode.h>

PARE_NAMESPACE_BEGIN

namespace {

// Tensors made in inference mode keep no version; their numbers are compared instead.
std::uint32_t version_of(const at::Tensor& tensor) { return tensor.is_inference() ? 0 : tensor._version(); }

bool has_data(const at::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == at::kStrided && !tensor.is_meta();
}

// Told by the numbers themselves: LibTorch's SGD writes past the version.
bool same_numbers(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  return a.equal(b) || a.eq(b).logical_or_(a.isnan().logical_and(b.isnan())).all().item<bool>();
}

}  // namespace

WeightBackup::WeightBackup(const Model& model, const WeightBackup* outer) {
  const at::NoGradGuard no_grad;
  for (const auto& [path, weight] : model.weights()) {
    if (!has_data(weight.tensor)) continue;
    const auto* key = weight.tensor.unsafeGetTensorImpl();
    const auto version = version_of(weight.tensor);
    if (outer && !weight.tensor.is_inference())
      if (const auto found = outer->entries_.find(key);
          found != outer->entries_.end() && found->second.version == version) {
        entries_.emplace(key, found->second);
        continue;
      }
    entries_.try_emplace(key, Entry{weight.tensor, weight.tensor.detach().clone(), version});
  }
}

std::string WeightBackup::written_in_place(const Model& before) const {
  for (const auto& [path, weight] : before.weights()) {
    const auto found = entries_.find(weight.tensor.unsafeGetTensorImpl());
    if (found == entries_.end()) continue;
    if (!same_numbers(weight.tensor, found->second.data)) return path;
  }
  return {};
}

void WeightBackup::restore(const Model& before) const {
  for (const auto& [path, weight] : before.weights()) {
    const auto found = entries_.find(weight.tensor.unsafeGetTensorImpl());
    if (found == entries_.end()) continue;
    // Through a detached alias: the live tensor may require gradients, and its own history must not see this.
    auto tensor = weight.tensor;
    const at::NoGradGuard no_grad;
    if (tensor.sizes() != found->second.data.sizes() || tensor.scalar_type() != found->second.data.scalar_type()) {
      tensor.unsafeGetTensorImpl()->set_allow_tensor_metadata_change(true);
      tensor.set_data(found->second.data.clone());
    } else if (!tensor.equal(found->second.data)) {
      tensor.variable_data().copy_(found->second.data);
    }
  }
}

Transaction::Transaction(Model& model, bool backup_weights, const Transaction* outer) : model_(model), before_(model) {
  if (backup_weights) backup_.emplace(model, outer && outer->backup_ ? &*outer->backup_ : nullptr);
}

Transaction::~Transaction() {
  if (!open_) return;
  try {
    roll_back();
  } catch (...) {  // copying back cannot fail for tensors that exist; a destructor must not throw
  }
}

bool Transaction::graph_changed() const { return &model_.graph() != &before_.graph(); }

bool Transaction::weights_changed() const {
  const auto& now = model_.weights();
  const auto& then = before_.weights();
  if (now.size() != then.size()) return true;
  for (auto a = now.begin(), b = then.begin(); a != now.end(); ++a, ++b)
    if (a->first != b->first || !a->second.tensor.is_same(b->second.tensor)) return true;
  return false;
}

std::string Transaction::written_in_place() const {
  return backup_ ? backup_->written_in_place(before_) : std::string();
}

void Transaction::roll_back() {
  open_ = false;
  model_ = before_;
  if (backup_) backup_->restore(before_);
}

PARE_NAMESPACE_END
