#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// The graph as text: dims, inputs, weights, a line for each node, outputs. `parse_graph` reads it back.
///
///     graph {
///       dim batch = 2
///       input %x : f32[batch, 3, 32, 32]
///       weight $conv.weight : f32[16, 3, 3, 3]
///       %0 = aten::conv2d(%x, $conv.weight, none, [1, 1], [1, 1], [1, 1], 1) : f32[batch, 16, 32, 32]  # conv in conv
///       output %0
///     }
///
/// `# conv in conv` is the layer name and the module; `when training`, `barrier` and `guard 1` stand before it. Names
/// that are no dotted paths stand in quotes. `dim batch = 3 from 2` refuses sizes below 2. Results are numbered in the
/// order of the text, so graphs that make the same calls in the same order print the same.
[[nodiscard]] std::string print(const Graph& graph);

/// The graph's text, below the notes of the Model as comment lines.
[[nodiscard]] std::string print(const Model& model);

/// Reads a graph from its text. What is read has been verified. Trailing operands that have defaults may be left out,
/// and so may layer names; `//` starts a comment.
///
/// @throws Error `pare.graph.221` text that is not a graph (the message names line and column), `.222` text or numbers
///         beyond the limits (64 MiB, 2^24 values, 64 dimensions), `.101` an operator that this process has not, and
///         what `verify` throws
[[nodiscard]] Graph parse_graph(std::string_view text);

PARE_NAMESPACE_END

template <>
struct fmt::formatter<pare::Graph> : fmt::formatter<std::string_view> {
  template <class FormatContext>
  auto format(const pare::Graph& graph, FormatContext& context) const {
    return fmt::formatter<std::string_view>::format(pare::print(graph), context);
  }
};

template <>
struct fmt::formatter<pare::Model> : fmt::formatter<std::string_view> {
  template <class FormatContext>
  auto format(const pare::Model& model, FormatContext& context) const {
    return fmt::formatter<std::string_view>::format(pare::print(model), context);
  }
};
