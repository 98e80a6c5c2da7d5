#pragma once

#include <c10/core/ScalarType.h>

#include <cstddef>
#include <map>
#include <string>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// How a model is compiled. int8 is not an option here: it is what the model's fake-quantize nodes ask for.
///
/// Without oneDNN in the build, and for a model on a GPU, ATen runs the model as it is: none of these apply, and
/// `ExecutionReport::backend` says which were given.
struct CompileOptions {
  /// Precision of what is not quantized: `at::kFloat` or `at::kBFloat16`.
  c10::ScalarType dtype = c10::ScalarType::Float;
  /// Threads of one call; 0: as many as LibTorch uses (`at::get_num_threads()`).
  int threads = 0;
  /// Exceptions to `dtype` by layer name (a node's name, see `Node::name`): mixed precision.
  std::map<std::string, c10::ScalarType> node_precision = {};
  /// How many plans (one for each combination of input sizes) are kept; the least recently used goes first.
  std::size_t plans = 8;
  /// Times the kernels that could run a convolution when a plan is built and keeps the fastest, instead of oneDNN's
  /// first choice. Costs fractions of a second a plan; which kernel wins may differ from one compilation to the next,
  /// and with it the last bit of a float result (an int8 result: one quantum, rarely).
  bool tune = true;
  /// Gives up one thread while another process keeps a core busy, and takes it back afterwards: beside such a neighbour
  /// threads that wait for each other at every layer are many times slower than one fewer. Threads of a team that meet
  /// on one CPU are moved apart; their affinity is left as it was.
  bool adapt_threads = true;
};

PARE_NAMESPACE_END
