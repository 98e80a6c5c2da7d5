#pragma once

#include <optional>
#include <string>

#include "pare/pipeline/drop_estimate.hpp"

PARE_NAMESPACE_BEGIN

/// What a change did to one head.
struct HeadReport {
  std::string name;
  double before = 0;  ///< mean score of the captured model
  double after = 0;   ///< of the one judged
  DropEstimate drop = {};
  std::optional<double> max_drop = {};  ///< its budget

  [[nodiscard]] bool within_budget() const noexcept { return !max_drop || drop.drop <= *max_drop; }
  /// `head 'distance' falls by 0.0310 (…), 0.0100 allowed`; empty within the budget.
  [[nodiscard]] std::string shortfall() const;
};

PARE_NAMESPACE_END
