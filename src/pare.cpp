// The one place where pare touches the process-wide dispatcher tables.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <mutex>

#include "graph/dequantize.hpp"
#include "graph/operators.hpp"

PARE_NAMESPACE_BEGIN

void register_operators() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  // Another copy of the library (a second SDK in this process) may have defined them already.
  const auto known = [](const char* name) { return c10::Dispatcher::singleton().findSchema({name, ""}).has_value(); };
  if (known("pare::training_select") && known("pare::dequantize")) return;
  static torch::Library library(torch::Library::FRAGMENT, "pare", std::nullopt, __FILE__, __LINE__);
  if (!known("pare::training_select")) library.def("training_select(Tensor? training, Tensor? evaluation) -> Tensor");
  if (known("pare::dequantize")) return;
  library.def("dequantize(Tensor integers, Tensor scale, Tensor? zero_point, int[] sizes) -> Tensor");
  library.impl("dequantize", torch::dispatch(c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(dequantize)));
}

PARE_NAMESPACE_END
