#include "distill/training_state.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <mutex>

#include "pare/checkpoint/safetensors.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Tensors = std::map<std::string, at::Tensor>;
using Texts = std::map<std::string, std::string>;

constexpr std::string_view kFormat = "pare.training";
constexpr std::string_view kVersion = "1";

void add_moments(const TrainingState& state, Tensors& tensors) {
  for (std::size_t i = 0; i < state.trained.size(); ++i) {
    const auto found = state.optimizer.state().find(state.trained[i].unsafeGetTensorImpl());
    if (found == state.optimizer.state().end()) continue;
    const auto add = [&](const char* name, const at::Tensor& tensor) {
      if (tensor.defined()) tensors[fmt::format("moments.{}.{}", i, name)] = tensor;
    };
    if (const auto* adam = dynamic_cast<const torch::optim::AdamWParamState*>(found->second.get())) {
      add("step", at::scalar_tensor(adam->step(), at::kLong));
      add("first", adam->exp_avg());
      add("second", adam->exp_avg_sq());
    } else if (const auto* sgd = dynamic_cast<const torch::optim::SGDParamState*>(found->second.get())) {
      add("momentum", sgd->momentum_buffer());
    }
  }
}

void take_moments(TrainingState& state, const SafeTensors& file) {
  auto& all = state.optimizer.state();
  all.clear();
  for (std::size_t i = 0; i < state.trained.size(); ++i) {
    const auto named = [&](const char* name) { return fmt::format("moments.{}.{}", i, name); };
    auto* key = state.trained[i].unsafeGetTensorImpl();
    if (file.contains(named("first"))) {
      auto moments = std::make_unique<torch::optim::AdamWParamState>();
      moments->step(file.at(named("step")).item<std::int64_t>());
      moments->exp_avg(file.at(named("first")).clone());
      moments->exp_avg_sq(file.at(named("second")).clone());
      all[key] = std::move(moments);
    } else if (file.contains(named("momentum"))) {
      auto moments = std::make_unique<torch::optim::SGDParamState>();
      moments->momentum_buffer(file.at(named("momentum")).clone());
      all[key] = std::move(moments);
    }
  }
}

// Shortest text that reads back as the same number.
Texts describe(const TrainingState& state) {
  const auto& place = state.place;
  const auto& result = place.result;
  Texts texts{{"format", std::string(kFormat)},
              {"version", std::string(kVersion)},
              {"fingerprint", state.fingerprint},
              {"step", fmt::format("{}", place.step)},
              {"epoch", fmt::format("{}", place.epoch)},
              {"position", fmt::format("{}", place.position)},
              {"epoch_batches", fmt::format("{}", place.epoch_batches)},
              {"epoch_loss", fmt::format("{}", place.epoch_loss)},
              {"without_gain", fmt::format("{}", place.without_gain)},
              {"over", place.over ? "1" : "0"},
              {"first_loss", fmt::format("{}", result.first_loss)},
              {"last_loss", fmt::format("{}", result.last_loss)},
              {"stopped_early", result.stopped_early ? "1" : "0"}};
  if (result.best) texts["best"] = fmt::format("{}", *result.best);
  if (result.best_epoch) texts["best_epoch"] = fmt::format("{}", *result.best_epoch);
  return texts;
}

template <class Number>
Number number(const SafeTensors& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  Number value{};
  if (found == file.metadata().end()) fail("pare.distill.133", file.name(), "the training's state lacks '{}'", key);
  const auto& text = found->second;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size())
    fail("pare.distill.133", file.name(), "'{}' of the training's state is '{}', not a number", key, text);
  return value;
}

TrainingPlace place_of(const SafeTensors& file) {
  const auto whole = [&](const char* key) { return number<std::int64_t>(file, key); };
  TrainingPlace place{.step = whole("step"),
                      .epoch = whole("epoch"),
                      .position = whole("position"),
                      .epoch_batches = whole("epoch_batches"),
                      .epoch_loss = number<double>(file, "epoch_loss"),
                      .without_gain = whole("without_gain"),
                      .over = whole("over") != 0};
  place.result.first_loss = number<double>(file, "first_loss");
  place.result.last_loss = number<double>(file, "last_loss");
  place.result.stopped_early = whole("stopped_early") != 0;
  if (file.metadata().contains("best")) place.result.best = number<double>(file, "best");
  if (file.metadata().contains("best_epoch")) place.result.best_epoch = whole("best_epoch");
  return place;
}

// The tensors whose names begin with `prefix`, by the rest of the name.
Tensors part(const SafeTensors& file, const std::string& prefix) {
  Tensors tensors;
  for (const auto& [name, tensor] : file.tensors())
    if (name.starts_with(prefix)) tensors[name.substr(prefix.size())] = tensor;
  return tensors;
}

void check_fits(const SafeTensors& file, const TrainingState& state, const Tensors& weights) {
  for (const auto& [path, weight] : state.model.weights()) {
    const auto found = weights.find(path);
    if (found == weights.end() || found->second.sizes() != weight.tensor.sizes())
      fail("pare.distill.132", file.name(), "this checkpoint is of another model: it lacks {} in its shape", path);
  }
  for (std::size_t i = 0; i < state.also.size(); ++i) {
    const auto name = fmt::format("also.{}", i);
    if (!file.contains(name) || file.at(name).sizes() != state.also[i].sizes())
      fail("pare.distill.132", file.name(), "this checkpoint is of another training: what its loss learns differs");
  }
}

}  // namespace

at::Tensor random_state() {
  auto generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard lock(generator.mutex());
  return generator.get_state().clone();
}

void set_random_state(const at::Tensor& state) {
  auto generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

std::map<std::string, at::Tensor> numbers_of(const Model& model) {
  Tensors numbers;
  for (const auto& [path, weight] : model.weights()) numbers[path] = weight.tensor.detach().clone();
  return numbers;
}

void put_back(const Model& model, const std::map<std::string, at::Tensor>& numbers) {
  const at::NoGradGuard no_grad;
  for (const auto& [path, tensor] : numbers) model.weight(path).copy_(tensor);
}

void save_training(const std::string& path, const TrainingState& state) {
  Tensors tensors;
  for (const auto& [name, weight] : state.model.weights()) tensors["model." + name] = weight.tensor.detach();
  for (std::size_t i = 0; i < state.also.size(); ++i) tensors[fmt::format("also.{}", i)] = state.also[i].detach();
  for (const auto& [name, tensor] : state.best) tensors["best." + name] = tensor;
  add_moments(state, tensors);
  tensors["random_state"] = random_state();
  tensors["epoch_random_state"] = state.epoch_random;
  save_safetensors(path, tensors, describe(state));
}

void require_writable(const std::string& path) {
  auto folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  // The file itself is replaced: its folder must take another.
  std::error_code ignored;
  if (::access(folder.c_str(), W_OK | X_OK) != 0 || std::filesystem::is_directory(path, ignored))
    fail("pare.checkpoint.121", path, "the file cannot be written");
}

bool load_training(const std::string& path, TrainingState& state, at::Tensor& random) {
  if (!std::filesystem::exists(path)) return false;
  const SafeTensors file(path);
  const auto& metadata = file.metadata();
  if (!metadata.contains("format") || metadata.at("format") != kFormat || metadata.at("version") != kVersion)
    fail("pare.distill.133", path, "this file is no training's state of this version");
  if (metadata.at("fingerprint") != state.fingerprint)
    fail("pare.distill.132", path,
         "this checkpoint is of another training ({}, not {}): remove it or give another path",
         metadata.at("fingerprint"), state.fingerprint);
  const auto weights = part(file, "model.");
  check_fits(file, state, weights);
  const auto place = place_of(file);
  for (const auto* name : {"random_state", "epoch_random_state"})
    if (!file.contains(name)) fail("pare.distill.133", path, "the training's state lacks the random state");
  const at::NoGradGuard no_grad;
  put_back(state.model, weights);
  for (std::size_t i = 0; i < state.also.size(); ++i) state.also[i].copy_(file.at(fmt::format("also.{}", i)));
  take_moments(state, file);
  state.best.clear();
  for (const auto& [name, tensor] : part(file, "best.")) state.best[name] = tensor.clone();
  state.place = place;
  state.epoch_random = file.at("epoch_random_state").clone();
  random = file.at("random_state").clone();
  return true;
}

PARE_NAMESPACE_END
