#pragma once

#include <utility>

#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// A Model that a pass made, and what it did to every layer.
struct Applied {
  Model model;
  Report report;
};

/// Runs a pass on a copy of `model`; what was passed in stays as it is.
///
///     auto int8 = pare::apply(pare::Quantizer{}, model, {.calibration = batches});
///
/// @throws as `Context::run`
template <class P>
[[nodiscard]] Applied apply(P&& pass, Model model, ContextOptions options = {}) {
  Context context(model, std::move(options));
  context.run(AnyPass(std::forward<P>(pass)), model);
  auto report = std::move(context.full_report());
  return {std::move(model), std::move(report)};
}

PARE_NAMESPACE_END
