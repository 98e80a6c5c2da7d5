#pragma once

#include <string>
#include <string_view>

#include "mcu/program.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

/// What every program begins with: the shift that rounds down, the clamp.
std::string_view preamble_source() noexcept;
/// Types that the kernels of one kind of step share; empty: none.
std::string_view type_source(StepKind kind) noexcept;
/// The kernel of one kind of step, as C99.
std::string_view kernel_source(StepKind kind) noexcept;
/// What the kernels on CMSIS-NN need first: its header, scratch memory of these sizes.
std::string cmsis_nn_preamble(const Program& program);
/// The same kernel, its sums of products computed by CMSIS-NN; empty: there is none.
std::string_view cmsis_nn_source(StepKind kind) noexcept;

}  // namespace mcu

PARE_NAMESPACE_END
