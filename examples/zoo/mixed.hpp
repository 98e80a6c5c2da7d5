#pragma once

#include "examples/zoo/recipe.hpp"

namespace zoo {

/// The recipe `mixed`: weights of 4 and 8 bits, as many on average as the options say, activations of 8.
void mixed(Recipe& recipe, const RecipeOptions& options);

}  // namespace zoo
