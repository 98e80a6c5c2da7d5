#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <memory>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Sees every ATen call that a thread makes, above autograd, while it is installed there (`Interception`).
///
/// `call` receives the operator and the dispatcher's stack, as the module's forward made the call: composite ops
/// (`conv2d`, `batch_norm`, `linear`) arrive whole, but for shorthands (`einsum`, `var`, `movedim`, ...), of which it
/// sees what they are made of. Calls that `call` itself makes are not seen again, by no interceptor. The
/// interceptor travels in a slot of LibTorch's own thread state, so several copies of pare in one process (two SDKs)
/// share one registration and each still sees its own interceptor.
class Interceptor : public c10::DebugInfoBase {
 public:
  /// Runs (or replaces) one call: takes the arguments from the stack and leaves the results there. The default way on
  /// is `op.callBoxed(stack)`.
  virtual void call(const c10::OperatorHandle& op, torch::jit::Stack& stack) = 0;
};

/// Installs an interceptor on this thread for a scope. Nests: the innermost sees the calls. Not movable; other threads
/// see nothing.
class Interception {
 public:
  explicit Interception(std::shared_ptr<Interceptor> interceptor);
  ~Interception();
  Interception(const Interception&) = delete;
  Interception& operator=(const Interception&) = delete;

 private:
  c10::DebugInfoGuard slot_;
  c10::impl::IncludeDispatchKeyGuard key_;
};

PARE_NAMESPACE_END
