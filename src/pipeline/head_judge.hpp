#pragma once

#include <string>
#include <vector>

#include "pare/pipeline/head.hpp"
#include "pare/pipeline/head_report.hpp"

PARE_NAMESPACE_BEGIN

/// Scores of one candidate. @throws Error `pare.pipeline.103` for scores that are none, or not finite, naming both
at::Tensor checked_scores(const SampleScores& scores, const Predictor& predict, const std::string& stage,
                          const std::string& head = "");

/// @throws Error `pare.pipeline.101` for a head without name or scores, two of one name, or a budget that is none
void validate_heads(const std::vector<Head>& heads);

/// Compares the heads of candidates with those of the captured model.
class HeadJudge {
 public:
  HeadJudge() = default;
  /// @throws Error as `checked_scores`
  HeadJudge(std::vector<Head> heads, const Predictor& original);

  [[nodiscard]] std::vector<HeadReport> operator()(const Predictor& predict, const std::string& stage) const;

 private:
  std::vector<Head> heads_;
  std::vector<at::Tensor> before_;
};

/// Whether every head keeps its budget, and what is missing, in words.
bool heads_within_budget(const std::vector<HeadReport>& heads);
std::string heads_shortfall(const std::vector<HeadReport>& heads);
/// Mean of the heads' scores, before or after.
double mean_of(const std::vector<HeadReport>& heads, double HeadReport::*which);

/// `text; one`, or `one` where there is no text yet.
void add_reason(std::string& text, const std::string& one);

PARE_NAMESPACE_END
