#pragma once

#include <string>

#include "pare/graph/model.hpp"
#include "pare/mcu/c_source.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

/// Writes a quantized Model as C99 for a microcontroller: one source file and, beside it, its header
/// (`CSource::header`), both named after the path as far as C allows: `net.c` has `net.h`, `my-net.c` has `my_net.h`.
///
///     auto size = pare::mcu::write_c(int8.model, "firmware/net.c");  // and the header beside it
///
///     #include "net.h"
///     net_run(pixels, scores);  /* uint8_t[NET_INPUT_SIZE] -> int32_t[NET_OUTPUT_SIZE] */
///     int digit = net_argmax(scores);
///
/// int8 weights are constants, activations live in one static arena whose layout is planned here, arithmetic is integer
/// throughout: int32 sums, then one multiply-add in fixed point and a shift. No malloc, no floating point, no library.
/// Images are `[channels, height, width]`, as LibTorch has them, one sample a call.
///
/// The integers are those of the simulation, except where a real number lies so
/// close to a rounding boundary that float32 itself would decide by its last
/// bits; `mcu::compile` gives them bit for bit. Scores are integers of one common
/// scale, without a last softmax.
///
/// Where the source is compiled with PARE_USE_CMSIS_NN, Arm's CMSIS-NN computes the sums of products of convolutions
/// and linear layers, with the target's SIMD instructions; rounding stays ours, and so the integers are the same.
///
/// Covers convolutions (grouped, depthwise, padded), linear layers, sums of two
/// values of one shape, ReLU and other clamps, max and average pooling in one and
/// two dimensions, means over all positions, concatenation of channels, and ops
/// that only rename dimensions.
///
/// @return what the program needs
/// @throws Error `pare.mcu.101` an operator, or a use of one, beyond these:
/// names layer and module; `.102` a Model that
///         is not quantized throughout; `.103` inputs, outputs or sizes that a
///         fixed program cannot have; `.104` the files cannot be written; in
///         all cases before anything is written
CSource write_c(const Model& model, const std::string& path);

}  // namespace mcu

PARE_NAMESPACE_END
