#include "pare/checkpoint/optimizer_checkpoint.hpp"

#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include "checkpoint/optimizer_record.hpp"
#include "checkpoint/recipe.hpp"
#include "checkpoint/safetensors_format.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using checkpoint::ParameterPaths;

ParameterPaths paths_of(const Model& model) {
  ParameterPaths paths;
  for (const auto& [path, tensor] : model.named_parameters()) paths.emplace(tensor.unsafeGetTensorImpl(), path);
  return paths;
}

ParameterPaths paths_of(const torch::nn::Module& module) {
  ParameterPaths paths;
  for (const auto& item : module.named_parameters()) paths.emplace(item.value().unsafeGetTensorImpl(), item.key());
  return paths;
}

void save(const Model& model, const torch::optim::Optimizer& optimizer, const ParameterPaths& paths,
          const std::string& path, const CheckpointOptions& options) {
  const auto file = checkpoint::printable(path);
  checkpoint::Tensors tensors;
  auto recipe = checkpoint::model_json(model, false, tensors, file);
  recipe["optimizer"] = checkpoint::optimizer_json(optimizer, paths, tensors, file);
  checkpoint::write_recipe(path, recipe, tensors, options.metadata);
}

void load(const std::string& path, const ParameterPaths& paths, torch::optim::Optimizer& optimizer) {
  const SafeTensors tensors(path);
  const auto file = checkpoint::printable(path);
  checkpoint::check_version(tensors, file);
  checkpoint::check_whole(tensors, file);
  try {
    const auto recipe = nlohmann::json::parse(tensors.metadata().at(checkpoint::kRecipe));
    if (!recipe.contains("optimizer"))
      fail("pare.checkpoint.137", file, "the checkpoint was written without an optimizer");
    checkpoint::read_optimizer(recipe["optimizer"], tensors, paths, optimizer, file);
  } catch (const nlohmann::json::exception& error) {
    checkpoint::broken(file, checkpoint::printable(error.what()));
  }
}

}  // namespace

void save_checkpoint(const Model& model, const torch::optim::Optimizer& optimizer, const std::string& path,
                     const CheckpointOptions& options) {
  save(model, optimizer, paths_of(model), path, options);
}

void save_checkpoint(const Model& model, const torch::nn::Module& module, const torch::optim::Optimizer& optimizer,
                     const std::string& path, const CheckpointOptions& options) {
  auto current = model;
  for (const auto& [name, tensor] : named_weights(module)) {
    const auto found = current.weights().find(name);
    if (found == current.weights().end()) continue;
    if (found->second.tensor.sizes() != tensor.sizes())
      fail("pare.checkpoint.134", checkpoint::printable(path),
           "'{}' is [{}] in the module and [{}] in the Model: it was not committed into it",
           checkpoint::printable(name), fmt::join(tensor.sizes(), ", "), fmt::join(found->second.tensor.sizes(), ", "));
    current.set_weight(name, tensor);
  }
  save(current, optimizer, paths_of(module), path, options);
}

void load_optimizer(const std::string& path, const Model& model, torch::optim::Optimizer& optimizer) {
  load(path, paths_of(model), optimizer);
}

void load_optimizer(const std::string& path, const torch::nn::Module& module, torch::optim::Optimizer& optimizer) {
  load(path, paths_of(module), optimizer);
}

PARE_NAMESPACE_END
