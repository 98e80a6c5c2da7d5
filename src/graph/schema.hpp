#pragma once

#include <string_view>
#include <vector>

#include "pare/graph/op.hpp"
#include "pare/graph/operand.hpp"

PARE_NAMESPACE_BEGIN

/// Completes operands with the schema's defaults. @param where the layer, for the error
/// @throws Error `pare.graph.111` when there are too many, or one without a default is missing
std::vector<Operand> complete(const Op& op, std::vector<Operand> operands, std::string_view where);

PARE_NAMESPACE_END
