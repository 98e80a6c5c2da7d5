#pragma once

#include "examples/zoo/recipe.hpp"

namespace zoo {

/// The recipe `auto`: whatever the options' budget needs, judged on samples that calibration did not see.
void automatic(Recipe& recipe, const RecipeOptions& options);

}  // namespace zoo
