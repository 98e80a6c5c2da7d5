#pragma once

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Checks that a graph is well formed; costs one walk over it.
///
/// @throws Error naming the node: `pare.graph.201` an empty or repeated layer, input or dim name, `.202` a value used
///         before it is computed, or unknown, `.203` an operand count that is not the schema's, `.204` an operand whose
///         kind does not fit the schema, `.205` results that do not fit the schema or their producer, `.206` a size
///         over a dim that the graph has not, `.207` a value of one mode (training, evaluation) used in the other
void verify(const Graph& graph);

/// Checks the graph, and that its weights exist.
///
/// @throws Error as for the graph, and `pare.graph.208` a weight that is not in the table, `.209` one whose shape or
///         dtype is not the graph's
void verify(const Model& model);

PARE_NAMESPACE_END
