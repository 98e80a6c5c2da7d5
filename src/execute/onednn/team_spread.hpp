#pragma once

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Moves members of this thread's OpenMP team that share a CPU to CPUs of their own.
///
/// Linux balances load between groups of processes: beside a busy neighbour it is content with two of our threads on
/// one CPU, where each spins through its time slice while the other could finish the kernel. Members move themselves by
/// narrowing their affinity for a moment; afterwards it is what it was. Threads that the user bound stay.
void spread_team();

PARE_NAMESPACE_END
