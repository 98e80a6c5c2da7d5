#pragma once

#include <string_view>

#include "pare/pass/context.hpp"

PARE_NAMESPACE_BEGIN

/// Turns zeros into structure: channels that died under a mask leave, and the outputs stay what they were.
///
///     pare::Sparsifier{.sparsity = 95_pct}, pare::DropDeadChannels{}
///
/// Before: a model whose weights carry zeros. After: the same graph on narrower weights (as after `Pruner`), without
/// the units that
/// - no layer reads: every weight that reads them is zero, or
/// - are zero themselves: every weight that computes them is zero, and the layers behind read nothing but zeros.
///
/// A unit that computes a constant other than zero is left to `Pruner`, which puts it into the next layer's bias. One
/// unit of every group stays. The result is compared with the original, on the calibration data where there are some,
/// else on random numbers; a group whose absence shows (an average counts its channels) stays whole and is declined.
/// Errors: `pare.prune.102` see `validate`, `.103` calibration without samples or on which the model gives NaN.
struct DropDeadChannels {
  double tolerance = 1e-5;  ///< largest change of the outputs, relative to the largest output

  static constexpr std::string_view kName = "DropDeadChannels";

  /// @throws Error `pare.prune.102` for a tolerance that is no positive number
  void validate() const;
  Preserved run(Model& model, Context& context);
};

PARE_NAMESPACE_END
