#pragma once

#include <optional>
#include <string>

#include "pare/core/literals.hpp"
#include "pare/pipeline/sample_scores.hpp"

PARE_NAMESPACE_BEGIN

/// One task of a network that has several, judged by itself: a change is accepted only if every head keeps its budget.
///
///     .heads = {{"segmentation", dice_of_each_picture, 1_pct}, {"distance", closeness_of_each_picture, 2_pct}}
struct Head {
  std::string name;  ///< in reports and errors; each head its own
  /// Of each sample, larger is better; one number alone for a metric that only a whole data set has (its interval is
  /// then not known).
  SampleScores scores = {};
  std::optional<Ratio> max_drop = {};  ///< of the mean, absolute; unset: reported, not limited
};

PARE_NAMESPACE_END
