#pragma once

#include "examples/zoo/recipe.hpp"

namespace zoo {

/// Quantization-aware training of the recipe's model with `options.bits`, the model itself as teacher. First and last
/// layer keep 8 bits, as is usual. Without training data the model is quantized only.
/// @throws pare::Error `zoo.108` for bits that are not two numbers
void qat(Recipe& recipe, const RecipeOptions& options);

}  // namespace zoo
