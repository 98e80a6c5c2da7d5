#pragma once

#include <vector>

#include "capture/trace.hpp"

PARE_NAMESPACE_BEGIN

/// One varying size and the two sizes it was captured at.
struct SampledDim {
  std::string name;
  std::int64_t low = 2;
  std::int64_t high = 3;
};

/// A trace whose integers are functions of the varying dims.
struct SymbolicTrace {
  Trace trace;
  std::vector<std::vector<SymbolicInt>> sizes;  ///< by value
};

/// Whether two tensors have one shape, one type and the same numbers, NaN being the same as NaN.
bool same_tensor(const at::Tensor& a, const at::Tensor& b);

/// Aligns the traces of one mode, recorded at every combination of the dims' low and high sizes (bit i of a trace's
/// position tells dim i), call by call.
/// @throws Error `pare.capture.131`, `.132`, `.133`
SymbolicTrace align_sizes(const std::vector<const Trace*>& traces, const std::vector<SampledDim>& dims);

PARE_NAMESPACE_END
