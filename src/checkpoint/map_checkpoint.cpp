#include "pare/checkpoint/map_checkpoint.hpp"

#include "checkpoint/read_model.hpp"
#include "checkpoint/recipe.hpp"
#include "checkpoint/safetensors_format.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

Model map_checkpoint(const std::string& path, const MapOptions& options) {
  const auto tensors = SafeTensors::map(path);
  const auto file = checkpoint::printable(path);
  checkpoint::check_version(tensors, file);
  const auto& metadata = tensors.metadata();
  // Files of before have one checksum, over everything.
  if (const auto known = metadata.find(checkpoint::kRecipeChecksum); options.check_weights || known == metadata.end())
    checkpoint::check_whole(tensors, file);
  else if (known->second != checkpoint::checksum(metadata.at(checkpoint::kRecipe), {}))
    fail("pare.checkpoint.132", file, "the checksum of the recipe is wrong: the file was damaged or edited");
  return checkpoint::read_model(tensors, file, checkpoint::Unpacked::Integers);
}

PARE_NAMESPACE_END
