#pragma once

#include "pare/execute/compiled_model.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

/// Packs a quantized Model for the arithmetic of the microcontroller and runs it in this process: the twin of what
/// `write_c` writes, integer for integer, on any machine.
///
///     auto twin = pare::mcu::compile(int8.model);
///     auto scores = twin(images);              // net_run's scores times CSource::output_scale, bit for bit
///
/// What `pare::compile` packs computes in float between its integers, and decides by the last bits of float32 where a
/// number lies at a rounding boundary; this one computes as the C source does: exact sums, then one multiply-add in
/// fixed point and a shift. It is for judging what will run on the device, on as many samples as there are, not for
/// speed. Inputs and outputs are the Model's: inputs are quantized as `CSource::input` says, a last softmax is computed
/// in float32 from the scores. `weight_bytes()` is `CSource::flash_bytes`.
///
/// @throws Error `pare.mcu.101` to `.103` as `write_c`
[[nodiscard]] CompiledModel compile(const Model& model);

}  // namespace mcu

PARE_NAMESPACE_END
