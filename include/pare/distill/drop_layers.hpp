#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// A shallower student: whole layers of a stack leave, the others keep their weights.
///
///     pare::DropLayers{.layers = 3}                                    // of BERT's 6: the 2nd, 4th and 6th stay
///     pare::DropLayers{.stack = "encoder.layer", .keep = {0, 2, 5}}
///
/// Before: a stack, a module whose children have numbers for names, each layer reading the one before. After: each
/// layer that is left reads the nearest one left before it; what only the others needed is gone from the graph and from
/// the weight table. Layers must hand on what they get in the same shape.
///
/// Errors: `pare.distill.140` no such stack, or none in the model, `.141` a number of layers to keep that the stack has
/// not, `.142` a layer that changes the shape.
struct DropLayers {
  enum class Choose : std::uint8_t {
    Uniform,      ///< the last of each equal share: Sun et al., 2019
    UniformLast,  ///< evenly from the first to the last
    First,        ///< the first ones
    Last,         ///< the last ones
  };
  std::int64_t layers = 0;  ///< to keep; 0: half of them
  std::string stack = {};   ///< empty: the model's longest
  Choose choose = Choose::Uniform;
  std::vector<std::int64_t> keep = {};  ///< positions in the stack; given, they count instead of the rule

  static constexpr std::string_view kName = "DropLayers";
  Preserved run(Model& model, Context& context);
};

/// The module with most numbered children in a graph; of equals the one that runs first.
/// @throws Error `pare.distill.140` when there is none with two
[[nodiscard]] std::string longest_stack(const Graph& graph);

PARE_NAMESPACE_END
