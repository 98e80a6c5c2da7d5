#include "pare/capture/interceptor.hpp"

#include <torch/library.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <string_view>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr auto kKey = c10::DispatchKey::TESTING_ONLY_GenericMode;
const auto kSlot = c10::DebugInfoKind::TEST_INFO_2;

// Composite ops that say nothing which their parts do not say better: products, sums and movements that every later
// stage has rules for.
bool is_shorthand(const c10::OperatorHandle& op) {
  static constexpr std::array<std::string_view, 19> names{"aten::einsum",
                                                          "aten::tensordot",
                                                          "aten::inner",
                                                          "aten::cosine_similarity",
                                                          "aten::pairwise_distance",
                                                          "aten::hstack",
                                                          "aten::vstack",
                                                          "aten::dstack",
                                                          "aten::column_stack",
                                                          "aten::tile",
                                                          "aten::movedim",
                                                          "aten::moveaxis",
                                                          "aten::swapdims",
                                                          "aten::swapaxes",
                                                          "aten::var",
                                                          "aten::std",
                                                          "aten::argsort",
                                                          "aten::take_along_dim",
                                                          "aten::ravel"};
  return std::find(names.begin(), names.end(), op.schema().name()) != names.end() &&
         op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
}

void fall_back(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  auto* interceptor = static_cast<Interceptor*>(c10::ThreadLocalDebugInfo::get(kSlot));
  if (interceptor && is_shorthand(op)) {
    op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), stack);
    return;
  }
  const c10::impl::ExcludeDispatchKeyGuard below(kKey);
  if (interceptor) {
    interceptor->call(op, *stack);
  } else {
    op.callBoxed(stack);
  }
}

// Registered on first use and never before: a program that links pare and captures nothing is left as it was. A second
// copy of the library finds the marker operator and leaves the fallback to the first.
void register_fallback() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (c10::Dispatcher::singleton().findSchema({"pare::interception_marker", ""})) return;
    static torch::Library marker(torch::Library::FRAGMENT, "pare", std::nullopt, __FILE__, __LINE__);
    marker.def("interception_marker() -> ()");
    static torch::Library library(torch::Library::IMPL, "_", kKey, __FILE__, __LINE__);
    library.fallback(torch::CppFunction::makeFromBoxedFunction<&fall_back>());
  });
}

std::shared_ptr<Interceptor> ready(std::shared_ptr<Interceptor> interceptor) {
  register_fallback();
  return interceptor;
}

}  // namespace

Interception::Interception(std::shared_ptr<Interceptor> interceptor)
    : slot_(kSlot, ready(std::move(interceptor))), key_(c10::DispatchKeySet(kKey)) {}

Interception::~Interception() = default;

PARE_NAMESPACE_END
