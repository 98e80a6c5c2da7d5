#pragma once

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Whether this thread is inside of a Model's run. What watches a module's own forward lets such calls by: a teacher
/// that is a Model of the same network reads the same weights.
[[nodiscard]] bool replaying() noexcept;

PARE_NAMESPACE_END
