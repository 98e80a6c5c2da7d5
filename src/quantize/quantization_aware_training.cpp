#include "pare/quantize/quantization_aware_training.hpp"

#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"
#include "trainable_quantization.hpp"

PARE_NAMESPACE_BEGIN

namespace {

Model with_own_weights(Model model) {
  model.detach_weights();
  return model;
}

std::vector<at::Tensor> tensors_of_named(const TrainableQuantization::NamedTensors& named) {
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : named) tensors.push_back(tensor);
  return tensors;
}

}  // namespace

QuantizationAwareTraining::QuantizationAwareTraining(const Model& model, const QuantizationSettings& settings,
                                                     const Batches& calibration, const QatOptions& options)
    : training_(std::make_unique<TrainableQuantization>(with_own_weights(model), settings, calibration, options)) {}
QuantizationAwareTraining::QuantizationAwareTraining(QuantizationAwareTraining&&) noexcept = default;
QuantizationAwareTraining& QuantizationAwareTraining::operator=(QuantizationAwareTraining&&) noexcept = default;
QuantizationAwareTraining::~QuantizationAwareTraining() = default;

std::vector<at::Tensor> QuantizationAwareTraining::run(const std::vector<at::Tensor>& inputs) {
  return training_->run(inputs);
}

at::Tensor QuantizationAwareTraining::only(std::vector<at::Tensor> outputs) {
  if (outputs.size() != 1)
    fail("pare.run.107", "", "the model has {} outputs: call run() for all of them", outputs.size());
  return std::move(outputs.front());
}

void QuantizationAwareTraining::train(bool on) { training_->train(on); }
bool QuantizationAwareTraining::is_training() const noexcept { return training_->is_training(); }

std::vector<std::pair<std::string, at::Tensor>> QuantizationAwareTraining::named_parameters() const {
  return training_->parameters();
}

std::vector<at::Tensor> QuantizationAwareTraining::parameters() const { return tensors_of_named(named_parameters()); }
std::vector<at::Tensor> QuantizationAwareTraining::model_parameters() const {
  return tensors_of_named(training_->model_parameters());
}
std::vector<at::Tensor> QuantizationAwareTraining::range_parameters() const {
  return tensors_of_named(training_->range_parameters());
}

void QuantizationAwareTraining::freeze_batch_norm() { training_->freeze_batch_norm(); }
void QuantizationAwareTraining::reestimate_batch_norm(const Batches& batches) {
  training_->reestimate_batch_norm(batches);
}
Model QuantizationAwareTraining::convert() const { return training_->convert(); }
Model QuantizationAwareTraining::convert_average() const { return training_->convert_average(); }
std::map<std::string, at::Tensor> QuantizationAwareTraining::state() const { return training_->state(); }
void QuantizationAwareTraining::load_state(const std::map<std::string, at::Tensor>& state) {
  training_->load_state(state);
}
void QuantizationAwareTraining::save(const std::string& path) const { save_safetensors(path, training_->state()); }
void QuantizationAwareTraining::resume(const std::string& path) { training_->load_state(SafeTensors(path).tensors()); }
const Report& QuantizationAwareTraining::report() const noexcept { return training_->report(); }

PARE_NAMESPACE_END
