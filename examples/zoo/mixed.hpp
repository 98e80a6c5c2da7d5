#pragma once

#include "examples/zoo/recipe.hpp"

namespace zoo {

/// The recipe `mixed`: weights of 4 and 8 bits, as many on average as the options say, activations of 8.
void mixed(Recipe& recipe, const RecipeOptions& options);
/// The recipe `joint`: besides, ratios of 0, 12.5, 25 and 50 % for each channel group, within the bytes stored or the
/// latency that the options allow; without either, within so many bits for each weight of the unpruned model.
void joint(Recipe& recipe, const RecipeOptions& options);

}  // namespace zoo
