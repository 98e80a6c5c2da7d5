#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "checkpoint/packing.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

namespace checkpoint {

using Tensors = std::map<std::string, at::Tensor>;

/// Entries of the file's metadata.
inline constexpr const char *kRecipe = "pare.recipe", *kFormat = "pare.version", *kChecksum = "pare.checksum",
                            *kRecipeChecksum = "pare.recipe_checksum";
/// What the names of an optimizer's tensors begin with; no weight's path has a slash.
inline constexpr std::string_view kOptimizerPrefix = "pare.optimizer/";

/// Of the recipe and of every tensor, name and bytes. FNV-1a: finds accidents, not forgeries.
std::string checksum(const std::string& recipe, const Tensors& tensors);

/// How a weight is stored, and what it is, in the recipe. The readers throw nlohmann's exceptions.
nlohmann::json packing_json(const Packing& packing);
Packing packing_from(const nlohmann::json& entry);
nlohmann::json weight_json(const Weight& weight);
Weight weight_from(const nlohmann::json& entry);

/// @throws Error `pare.checkpoint.133`
[[noreturn]] void broken(const std::string& file, std::string_view why);

/// Whether this library reads the file. @throws Error `pare.checkpoint.130`, `.131`, `.133`
void check_version(const SafeTensors& file, const std::string& name);

/// Compares the checksum over everything. @throws Error `pare.checkpoint.132`
void check_whole(const SafeTensors& tensors, const std::string& file);

/// The recipe of a Model; its weights go into `tensors`, packed where `pack` asks for it and they can be.
/// @throws Error `pare.checkpoint.135`
nlohmann::json model_json(const Model& model, bool pack, Tensors& tensors, const std::string& file);

/// Writes a recipe and its tensors. @throws Error `pare.checkpoint.120`, `.121`
void write_recipe(const std::string& path, const nlohmann::json& recipe, const Tensors& tensors,
                  std::map<std::string, std::string> metadata);

}  // namespace checkpoint

PARE_NAMESPACE_END
