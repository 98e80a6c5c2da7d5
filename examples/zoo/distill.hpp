#pragma once

#include "examples/zoo/recipe.hpp"

namespace zoo {

/// Makes a student of the recipe's model and trains it with that model as its teacher: `options.student` is a number of
/// layers to keep of its longest stack, or a share of the multiply-accumulates to prune away. Without training data the
/// student is only made.
/// @throws pare::Error `zoo.107` for a student that is neither
void distill(Recipe& recipe, const RecipeOptions& options);

}  // namespace zoo
