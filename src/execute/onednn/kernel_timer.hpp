#pragma once

#include <vector>

#include "execute/onednn/page_memory.hpp"
#include "execute/onednn/plan.hpp"

PARE_NAMESPACE_BEGIN

/// Times kernels on memory of its own, full of zeros.
class KernelTimer {
 public:
  /// Seconds of the fastest of a few runs.
  /// @param arguments as of a `PlanCall`; those with a buffer get memory here
  double seconds(const dnnl::primitive& primitive, const std::vector<PlanArgument>& arguments);

 private:
  PageMemory memory_;
};

PARE_NAMESPACE_END
