#include "pare/distill/fit.hpp"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>
#include <set>

#include "distill/check_loss.hpp"
#include "distill/training_state.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

// bf16 autocast on a device for a scope, LibTorch's settings put back afterwards.
class MixedPrecision {
 public:
  MixedPrecision(bool on, at::DeviceType device) : on_(on), device_(device) {
    if (!on_) return;
    before_ = at::autocast::is_autocast_enabled(device_);
    dtype_ = at::autocast::get_autocast_dtype(device_);
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::increment_nesting();
  }
  ~MixedPrecision() {
    if (!on_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device_, before_);
    at::autocast::set_autocast_dtype(device_, dtype_);
  }
  MixedPrecision(const MixedPrecision&) = delete;
  MixedPrecision& operator=(const MixedPrecision&) = delete;

 private:
  bool on_, before_ = false;
  at::DeviceType device_;
  at::ScalarType dtype_ = at::kBFloat16;
};

// The caller's random state comes back when a training is over, however it ends.
class OwnRandomness {
 public:
  OwnRandomness() : before_(random_state()) {}
  ~OwnRandomness() { set_random_state(before_); }
  OwnRandomness(const OwnRandomness&) = delete;
  OwnRandomness& operator=(const OwnRandomness&) = delete;

 private:
  at::Tensor before_;
};

std::unique_ptr<torch::optim::Optimizer> make_optimizer(const std::vector<at::Tensor>& trained,
                                                        const FitOptions& options) {
  std::vector<at::Tensor> decaying, plain;
  for (const auto& tensor : trained) (tensor.dim() >= 2 ? decaying : plain).push_back(tensor);
  const auto groups = [&](auto settings) {
    std::vector<torch::optim::OptimizerParamGroup> all;
    using Settings = decltype(settings);
    if (!decaying.empty()) all.emplace_back(decaying, std::make_unique<Settings>(settings));
    settings.weight_decay(0.0);
    if (!plain.empty()) all.emplace_back(plain, std::make_unique<Settings>(settings));
    return all;
  };
  if (options.optimizer == FitOptions::Optimizer::AdamW) {
    torch::optim::AdamWOptions settings(options.rate);
    settings.weight_decay(options.weight_decay);
    return std::make_unique<torch::optim::AdamW>(groups(settings), settings);
  }
  torch::optim::SGDOptions settings(options.rate);
  settings.momentum(options.momentum).weight_decay(options.weight_decay).nesterov(options.momentum > 0);
  return std::make_unique<torch::optim::SGD>(groups(settings), settings);
}

class Training {
 public:
  Training(Model& model, const TrainingData& data, const StepLoss& loss, const FitOptions& options,
           const std::vector<at::Tensor>& also)
      : model_(model),
        data_(data),
        loss_(loss),
        options_(options),
        trained_(trained_tensors(model, also)),
        optimizer_(make_optimizer(trained_, options)),
        state_{model, *optimizer_, trained_, also, {}, {}, {}, ""} {
    if (options.keep_zeros)
      for (const auto& tensor : trained_) kept_.push_back(tensor.dim() >= 2 ? tensor.detach().ne(0) : at::Tensor());
    total_ = count_steps();
    state_.fingerprint = fingerprint();
  }

  FitResult run() {
    const at::AutoGradMode gradients(true);
    at::manual_seed(options_.seed);
    const bool training = model_.is_training();
    remember();
    try {
      train();
    } catch (...) {  // the caller's loss, data and judge may throw whatever they like
      go_back();
      model_.train(training);
      throw;
    }
    auto& place = state_.place;
    model_.eval();
    if (!state_.best.empty()) put_back(model_, state_.best);
    place.result.steps = place.step;
    place.result.epochs = place.epoch;
    return place.result;
  }

 private:
  void train() {
    auto& place = state_.place;
    if (!options_.checkpoint.empty() && load_training(options_.checkpoint, state_, resume_random_)) {
      place.result.resumed = true;
      options_.log.info("training resumed at step {} of {}", place.step, total_);
      remember();
    }
    if (!options_.checkpoint.empty() && !place.over) require_writable(options_.checkpoint);
    for (const auto& [path, weight] : model_.weights())
      if (is_finite(weight.tensor)) finite_.insert(path);
    auto task = options_.progress.start("train", static_cast<std::size_t>(total_));
    task.advance(static_cast<std::size_t>(place.step));
    while (!place.over) epoch(task);
  }

  // What a training that fails goes back to.
  void remember() {
    if (state_.best.empty()) good_ = numbers_of(model_);
    good_also_.clear();
    for (const auto& tensor : state_.also) good_also_.push_back(tensor.detach().clone());
  }

  void go_back() {
    put_back(model_, state_.best.empty() ? good_ : state_.best);
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < good_also_.size(); ++i) state_.also[i].copy_(good_also_[i]);
  }

  static std::vector<at::Tensor> trained_tensors(const Model& model, const std::vector<at::Tensor>& also) {
    std::vector<at::Tensor> all;
    for (const auto& tensor : model.parameters())
      if (tensor.requires_grad()) all.push_back(tensor);
    all.insert(all.end(), also.begin(), also.end());
    if (all.empty()) fail("pare.distill.123", "", "no parameter of the model requires gradients: nothing to train");
    return all;
  }

  std::int64_t count_steps() {
    const auto first = data_.epoch(0);
    if (first.empty()) fail("pare.distill.122", "", "no batch to train on");
    std::int64_t batches = 0;
    if (const auto size = first.size()) {
      batches = static_cast<std::int64_t>(*size);
    } else if (options_.steps > 0) {
      return options_.steps;
    } else {
      for ([[maybe_unused]] const auto& batch : first) ++batches;  // once, for the schedule
    }
    const auto steps = (batches + options_.accumulate - 1) / options_.accumulate * options_.epochs;
    return options_.steps > 0 ? std::min(options_.steps, steps) : steps;
  }

  std::string fingerprint() const {
    std::int64_t numbers = 0;
    for (const auto& tensor : trained_) numbers += tensor.numel();
    return fmt::format(
        "{} steps, optimizer {}, rate {}, decay {}/{}, warm-up {}, momentum {}, clip {}, accumulate {}, "
        "mixed {}, training mode {}, zeros kept {}, patience {}, seed {}, {} tensors of {} numbers",
        total_, static_cast<int>(options_.optimizer), options_.rate, static_cast<int>(options_.decay),
        options_.weight_decay, options_.warm_up.fraction, options_.momentum, options_.clip, options_.accumulate,
        options_.mixed, options_.batch_statistics, options_.keep_zeros, options_.patience, options_.seed,
        trained_.size(), numbers);
  }

  double rate_at(std::int64_t step) const {
    const auto warm = std::llround(options_.warm_up.fraction * static_cast<double>(total_));
    if (step < warm) return options_.rate * static_cast<double>(step + 1) / static_cast<double>(warm);
    const double time =
        static_cast<double>(step - warm) / static_cast<double>(std::max<std::int64_t>(1, total_ - warm));
    switch (options_.decay) {
      case FitOptions::Decay::Linear:
        return options_.rate * (1.0 - time);
      case FitOptions::Decay::Cosine:
        return options_.rate * 0.5 * (1.0 + std::cos(std::numbers::pi * time));
      default:
        return options_.rate;
    }
  }

  void epoch(Progress::Task& task) {
    auto& place = state_.place;
    model_.train(options_.batch_statistics);
    if (resume_random_.defined()) {
      set_random_state(state_.epoch_random);
    } else {
      state_.epoch_random = random_state();
    }
    const auto batches = data_.epoch(place.epoch);  // may draw its order
    auto it = batches.begin();
    for (std::int64_t i = 1; i < place.position && it != std::default_sentinel; ++i) ++it;
    if (resume_random_.defined()) {  // as it was when the checkpoint was written, before the next batch was made
      if (place.position > 0) set_random_state(resume_random_);
      if (place.position > 0 && it != std::default_sentinel) ++it;
      resume_random_ = at::Tensor();
    }
    while (it != std::default_sentinel && place.step < total_) {
      ++place.position;
      const auto pending = gather(*it);
      if (pending < options_.accumulate) {
        ++it;
        if (it != std::default_sentinel) continue;
        step(pending, task);
        break;
      }
      step(pending, task);
      if (place.step % options_.checkpoint_every == 0 && place.step < total_) {
        check_numbers();
        keep();
      }
      ++it;
    }
    finish_epoch();
  }

  // One batch's gradients. @return how many batches wait for their step
  std::int64_t gather(const Batch& batch) {
    auto& place = state_.place;
    if (pending_ == 0) optimizer_->zero_grad();
    at::Tensor loss;
    {
      const MixedPrecision mixed(options_.mixed, trained_.front().device().type());
      try {
        loss = loss_(batch);
      } catch (const Error& error) {
        if (error.id() == "pare.distill.110") stop(error.what());
        throw;
      }
    }
    check_loss(loss, place.position - 1, place.epoch);
    const double value = loss.item<double>();
    if (!std::isfinite(value)) stop(fmt::format("the loss is {}", value));
    (options_.accumulate > 1 ? loss / static_cast<double>(options_.accumulate) : loss).backward();
    place.epoch_loss += value;
    ++place.epoch_batches;
    return ++pending_;
  }

  void step(std::int64_t pending, Progress::Task& task) {
    auto& place = state_.place;
    double square = 0;
    for (const auto& tensor : trained_)
      if (tensor.grad().defined()) square += std::pow(tensor.grad().norm().item<double>(), 2.0);
    const double norm = std::sqrt(square);
    if (!std::isfinite(norm)) stop(fmt::format("the norm of the gradients is {}", norm));
    // The last step of an epoch may have fewer batches: its gradients are a mean all the same.
    double scale = static_cast<double>(options_.accumulate) / static_cast<double>(pending);
    if (options_.clip > 0 && norm * scale > options_.clip) scale *= options_.clip / (norm * scale);
    const at::NoGradGuard no_grad;
    if (scale != 1.0)
      for (const auto& tensor : trained_)
        if (tensor.grad().defined()) tensor.grad().mul_(scale);
    const double rate = rate_at(place.step);
    for (auto& group : optimizer_->param_groups()) group.options().set_lr(rate);
    optimizer_->step();
    for (std::size_t i = 0; i < kept_.size(); ++i)
      if (kept_[i].defined()) trained_[i].mul_(kept_[i]);
    pending_ = 0;
    ++place.step;
    task.advance();
  }

  // A step may go beyond what half precision holds, from a loss and gradients that are finite.
  void check_numbers() {
    for (const auto& path : finite_)
      if (const auto& weight = model_.weight(path); !is_finite(weight))
        stop(fmt::format("{} of type {} is not finite", path, c10::toString(weight.scalar_type())));
    for (const auto& tensor : state_.also)
      if (!is_finite(tensor)) stop("what the loss learns is not finite");
  }

  static bool is_finite(const at::Tensor& tensor) {
    return !tensor.is_floating_point() || tensor.isfinite().all().item<bool>();
  }

  void keep() {
    remember();
    if (!options_.checkpoint.empty()) save_training(options_.checkpoint, state_);
  }

  void finish_epoch() {
    auto& place = state_.place;
    auto& result = place.result;
    if (place.epoch_batches == 0)
      fail("pare.distill.122", "", "epoch {} (counted from 0) has no batch: data must be there to read in every epoch",
           place.epoch);
    check_numbers();
    result.last_loss = place.epoch_loss / static_cast<double>(place.epoch_batches);
    if (place.epoch == 0) result.first_loss = result.last_loss;
    ++place.epoch;
    options_.log.info("epoch {}: step {} of {}, mean loss {:.6g}", place.epoch, place.step, total_, result.last_loss);
    place.position = place.epoch_batches = 0;
    place.epoch_loss = 0;
    if (options_.judge) judge();
    place.over = place.step >= total_ || place.epoch >= options_.epochs || result.stopped_early;
    state_.epoch_random = random_state();
    keep();
  }

  void judge() {
    auto& place = state_.place;
    auto& result = place.result;
    model_.eval();
    const at::NoGradGuard no_grad;
    const double value = options_.judge(model_);
    if (!std::isfinite(value))
      fail("pare.distill.124", "", "the judgement of epoch {} (counted from 1) is {}: it must be a finite number",
           place.epoch, value);
    options_.log.info("epoch {}: judged {:.6g}", place.epoch, value);
    if (!result.best || value > *result.best) {
      result.best = value;
      result.best_epoch = place.epoch;
      place.without_gain = 0;
      state_.best = numbers_of(model_);
    } else if (++place.without_gain >= options_.patience && options_.patience > 0) {
      result.stopped_early = true;
    }
  }

  [[noreturn]] void stop(const std::string& what) {
    const auto& place = state_.place;
    fail("pare.distill.131", "",
         "{} at batch {} of epoch {} (both counted from 0), after {} steps; the model is back at its last good state: "
         "try a lower rate or a smaller .clip",
         what, place.position - 1, place.epoch, place.step);
  }

  Model& model_;
  const TrainingData& data_;
  const StepLoss& loss_;
  const FitOptions& options_;
  std::vector<at::Tensor> trained_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  TrainingState state_;
  std::vector<at::Tensor> kept_;            // for `keep_zeros`: where each tensor is not zero
  std::map<std::string, at::Tensor> good_;  // the last good state, until one is judged best
  std::vector<at::Tensor> good_also_;       // of what the loss learns
  std::set<std::string> finite_;            // weights that must stay so: a mask may have been infinite all along
  at::Tensor resume_random_;
  std::int64_t total_ = 0;
  std::int64_t pending_ = 0;
};

}  // namespace

FitResult fit(Model& model, const TrainingData& data, const StepLoss& loss, const FitOptions& options,
              std::vector<at::Tensor> also) {
  options.validate();
  const bool training = model.is_training();
  if (options.batch_statistics) model.train();  // says early when it cannot
  model.train(training);
  const OwnRandomness randomness;
  return Training(model, data, loss, options, also).run();
}

PARE_NAMESPACE_END
