#pragma once

#include "pare/core/batches.hpp"
#include "pare/pipeline/sample_scores.hpp"

PARE_NAMESPACE_BEGIN

/// One round of a cross-validation: what calibrates, and scores of the samples left out of it.
struct Fold {
  Batches calibration = {};
  SampleScores scores = {};
};

PARE_NAMESPACE_END
