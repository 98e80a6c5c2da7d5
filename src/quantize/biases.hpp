#pragma once

#include <vector>

#include "pare/graph/rewriter.hpp"

PARE_NAMESPACE_BEGIN

/// What `RoundBiases` does. @return the layers whose bias is on its grid now
std::vector<NodeId> round_biases(Model& model, Rewriter& rewriter);

PARE_NAMESPACE_END
