#pragma once

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// What `verify` leaves open because capture cannot get it wrong, and a file can: that the graph calls nothing but
/// operators that stay with their operands, that it has an output, and that results have the types it says. Types are
/// found by running the graph without numbers, at the sizes of the example and with one more of the first dim; an
/// operator that cannot run so is taken at its word.
///
/// @throws Error `pare.graph.210` an operator that reads files or reaches beyond its operands' memory, `.211` a
///         result of another type, `.205` no output
void check_foreign(const Model& model);

PARE_NAMESPACE_END
