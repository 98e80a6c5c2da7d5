// The one place where pare touches the process-wide dispatcher tables.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <mutex>

#include "graph/operators.hpp"

PARE_NAMESPACE_BEGIN

void register_operators() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  // Another copy of the library (a second SDK in this process) may have defined them already.
  if (c10::Dispatcher::singleton().findSchema({"pare::training_select", ""})) return;
  static torch::Library library(torch::Library::FRAGMENT, "pare", std::nullopt, __FILE__, __LINE__);
  library.def("training_select(Tensor? training, Tensor? evaluation) -> Tensor");
}

PARE_NAMESPACE_END
