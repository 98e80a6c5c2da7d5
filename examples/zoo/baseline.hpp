#pragma once

#include <functional>

#include "examples/models/registry.hpp"
#include "pare/analysis/latency.hpp"

namespace zoo {

/// Gives the memory that the job has freed so far back to the system.
///
/// LibTorch's eager forward asks malloc for every activation anew. In a process that has just calibrated a model it
/// finds them in the heap that calibration left; in one that only runs the model it pays for fresh pages in each
/// forward. The latter is what a user's process does, so the heap is emptied before anything is timed.
void release_freed_memory();

/// Times the compiled model against the best that eager LibTorch can do: weights and images channels-last, and a
/// malloc that keeps its pages. @returns eager, compiled
/// @post the module's weights are channels-last and malloc keeps freed memory from here on: for the end of a job
std::vector<pare::Latency> time_against_tuned_eager(models::Bundle& bundle, const models::Tensors& example,
                                                    const std::function<void()>& compiled, double seconds);

}  // namespace zoo
