#pragma once

#include <string_view>

#include "mcu/program.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

/// What every program begins with: the shift that rounds down, the clamp.
std::string_view preamble_source() noexcept;
/// The kernel of one kind of step, as C99.
std::string_view kernel_source(StepKind kind) noexcept;

}  // namespace mcu

PARE_NAMESPACE_END
