#pragma once

#include <concepts>
#include <string>
#include <utility>
#include <vector>

#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// Passes in order. Itself a pass, so managers nest.
///
/// Each pass is a transaction, and so is the whole: when one fails, nothing of the others stays.
class PassManager {
 public:
  /// Unconstrained, so that a type that is no pass meets our own message instead of a failed constraint.
  template <class... Passes>
  requires(sizeof...(Passes) != 1 ||
           !(std::same_as<std::remove_cvref_t<Passes>, PassManager> || ...)) explicit PassManager(Passes&&... passes) {
    passes_.reserve(sizeof...(Passes));
    (add(std::forward<Passes>(passes)), ...);
  }
  /// Appends a pass; its options are validated here.
  template <class P>
  PassManager& add(P&& pass) {
    passes_.emplace_back(std::forward<P>(pass));
    return *this;
  }

  [[nodiscard]] const std::vector<AnyPass>& passes() const noexcept { return passes_; }
  /// Runs the passes. @return what all of them preserved. @throws what the failing pass threw; the Model is as it was
  Preserved run(Model& model, Context& context);

 private:
  std::vector<AnyPass> passes_;
};

PARE_NAMESPACE_END
