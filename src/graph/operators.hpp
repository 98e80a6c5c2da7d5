#pragma once

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Defines pare's own operators in this process, once, however many copies of the library it holds:
/// `pare::training_select(Tensor? training, Tensor? evaluation) -> Tensor`, the value of the current mode;
/// `pare::dequantize(Tensor integers, Tensor scale, Tensor? zero_point, int[] sizes) -> Tensor`, the numbers of a
/// weight that is stored as integers (`dequantize.hpp`).
void register_operators();

PARE_NAMESPACE_END
