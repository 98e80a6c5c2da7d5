#include "pare/distill/fit.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numbers>

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
    auto& place = state_.place;
    if (!options_.checkpoint.empty() && load_training(options_.checkpoint, state_, resume_random_)) {
      place.result.resumed = true;
      options_.log.info("training resumed at step {} of {}", place.step, total_);
    }
    if (state_.best.empty()) good_ = numbers_of(model_);
    auto task = options_.progress.start("train", static_cast<std::size_t>(total_));
    task.advance(static_cast<std::size_t>(place.step));
    while (!place.over) epoch(task);
    model_.eval();
    if (!state_.best.empty()) put_back(model_, state_.best);
    place.result.steps = place.step;
    place.result.epochs = place.epoch;
    return place.result;
  }

 private:
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
      const auto pending = gather(*it);
      ++place.position;
      if (pending < options_.accumulate) {
        ++it;
        if (it != std::default_sentinel) continue;
        step(pending, task);
        break;
      }
      step(pending, task);
      if (place.step % options_.checkpoint_every == 0 && place.step < total_) keep();
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

  void keep() {
    if (state_.best.empty()) good_ = numbers_of(model_);
    if (!options_.checkpoint.empty()) save_training(options_.checkpoint, state_);
  }

  void finish_epoch() {
    auto& place = state_.place;
    auto& result = place.result;
    result.last_loss = place.epoch_loss / static_cast<double>(std::max<std::int64_t>(1, place.epoch_batches));
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
    put_back(model_, state_.best.empty() ? good_ : state_.best);
    model_.eval();
    fail("pare.distill.131", "",
         "{} at batch {} of epoch {} (both counted from 0), after {} steps; the model is back at its last good state: "
         "try "
         "a lower rate or a smaller .clip",
         what, place.position, place.epoch, place.step);
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
  at::Tensor resume_random_;
  std::int64_t total_ = 0;
  std::int64_t pending_ = 0;
};

}  // namespace

void FitOptions::validate() const {
  const auto want = [](bool good, const char* name, const auto& value, const char* range) {
    if (!good) fail("pare.distill.120", name, "{} is out of range: {}", value, range);
  };
  want(epochs >= 1, "epochs", epochs, "at least 1");
  want(steps >= 0, "steps", steps, "at least 0");
  want(rate > 0 && std::isfinite(rate), "rate", rate, "positive");
  want(weight_decay >= 0, "weight_decay", weight_decay, "at least 0");
  want(momentum >= 0 && momentum < 1, "momentum", momentum, "0 to 1");
  want(warm_up.fraction >= 0 && warm_up.fraction <= 1, "warm_up", warm_up.fraction, "0 to 1");
  want(clip >= 0, "clip", clip, "at least 0");
  want(accumulate >= 1, "accumulate", accumulate, "at least 1");
  want(patience >= 0, "patience", patience, "at least 0");
  want(checkpoint_every >= 1, "checkpoint_every", checkpoint_every, "at least 1");
}

TrainingData TrainingData::shuffled(std::vector<at::Tensor> tensors, std::int64_t batch_size, std::uint64_t seed) {
  const auto rows = tensors.empty() ? 0 : tensors.front().size(0);
  for (const auto& tensor : tensors)
    if (tensor.size(0) != rows)
      fail("pare.distill.121", "", "tensors of {} and {} rows: every row is one sample", rows, tensor.size(0));
  if (batch_size < 1 || rows < batch_size) fail("pare.distill.121", "", "batches of {} from {} rows", batch_size, rows);
  TrainingData data([tensors, batch_size, seed, rows](std::int64_t epoch) {
    auto generator = at::detail::createCPUGenerator(seed * 0x9E3779B97F4A7C15ULL + static_cast<std::uint64_t>(epoch));
    const auto order = at::randperm(rows, generator, at::TensorOptions().dtype(at::kLong));
    return Batches(
        [tensors, batch_size, order](std::size_t position) -> std::optional<Batch> {
          const auto index = order.narrow(0, static_cast<std::int64_t>(position) * batch_size, batch_size);
          Batch batch;
          for (const auto& tensor : tensors) batch.push_back(tensor.index_select(0, index));
          return batch;
        },
        static_cast<std::size_t>(rows / batch_size));
  });
  data.samples_ =
      Batches([tensors = std::move(tensors), batch_size, rows](std::size_t position) -> std::optional<Batch> {
        const auto begin = static_cast<std::int64_t>(position) * batch_size;
        if (begin >= rows) return std::nullopt;
        Batch batch;
        for (const auto& tensor : tensors) batch.push_back(tensor.narrow(0, begin, std::min(batch_size, rows - begin)));
        return batch;
      });
  return data;
}

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
