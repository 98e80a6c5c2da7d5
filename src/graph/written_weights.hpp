#pragma once

#include <vector>

#include "pare/graph/graph.hpp"

PARE_NAMESPACE_BEGIN

/// The entries of the weight table that a node changes, itself or through views: state that outlives a call.
std::vector<ValueId> written_weights(const Graph& graph, const Node& node);

PARE_NAMESPACE_END
