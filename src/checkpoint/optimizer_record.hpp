#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>

#include "checkpoint/recipe.hpp"

namespace torch::optim {
class Optimizer;
}

PARE_NAMESPACE_BEGIN

namespace checkpoint {

/// Path of each tensor that an optimizer may train, by its `TensorImpl`.
using ParameterPaths = std::unordered_map<const void*, std::string>;

/// An optimizer as an entry of the recipe; its tensors go into `tensors`.
/// @throws Error `pare.checkpoint.136`, `.138`
nlohmann::json optimizer_json(const torch::optim::Optimizer& optimizer, const ParameterPaths& paths, Tensors& tensors,
                              const std::string& file);

/// The way back, all or nothing. @throws Error `pare.checkpoint.133`, `.137`, `.138`
void read_optimizer(const nlohmann::json& record, const SafeTensors& tensors, const ParameterPaths& paths,
                    torch::optim::Optimizer& optimizer, const std::string& file);

}  // namespace checkpoint

PARE_NAMESPACE_END
