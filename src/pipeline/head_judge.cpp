#include "pipeline/head_judge.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

std::string HeadReport::shortfall() const {
  return within_budget() ? "" : fmt::format("head '{}' falls by {}, {:.4f} allowed", name, drop.text(), *max_drop);
}

at::Tensor checked_scores(const SampleScores& scores, const Predictor& predict, const std::string& stage,
                          const std::string& head) {
  const at::NoGradGuard no_grad;
  const auto found = scores(predict);
  if (!found.defined() || found.numel() == 0 || !found.isfinite().all().item<bool>())
    fail("pare.pipeline.103", stage, "the scores{} must be numbers, one for each sample",
         head.empty() ? "" : fmt::format(" of head '{}'", head));
  return found.to(at::kDouble).flatten();
}

void validate_heads(const std::vector<Head>& heads) {
  std::set<std::string> names;
  for (const auto& head : heads) {
    if (head.name.empty()) fail("pare.pipeline.101", "", "a head without a name");
    if (!names.insert(head.name).second) fail("pare.pipeline.101", head.name, "two heads of this name");
    if (!head.scores) fail("pare.pipeline.101", head.name, "a head that nothing judges: give it scores");
    if (head.max_drop && !(head.max_drop->fraction >= 0 && std::isfinite(head.max_drop->fraction)))
      fail("pare.pipeline.101", head.name, "a drop of at most {} is not possible", head.max_drop->fraction);
  }
}

HeadJudge::HeadJudge(std::vector<Head> heads, const Predictor& original) : heads_(std::move(heads)) {
  for (const auto& head : heads_)
    before_.push_back(checked_scores(head.scores, original, "the captured model", head.name));
}

std::vector<HeadReport> HeadJudge::operator()(const Predictor& predict, const std::string& stage) const {
  std::vector<HeadReport> reports;
  for (std::size_t i = 0; i < heads_.size(); ++i) {
    const auto after = checked_scores(heads_[i].scores, predict, stage, heads_[i].name);
    HeadReport report{heads_[i].name,
                      before_[i].mean().item<double>(),
                      after.mean().item<double>(),
                      estimate_drop(before_[i], after),
                      {}};
    if (heads_[i].max_drop) report.max_drop = heads_[i].max_drop->fraction;
    reports.push_back(std::move(report));
  }
  return reports;
}

bool heads_within_budget(const std::vector<HeadReport>& heads) {
  return std::ranges::all_of(heads, &HeadReport::within_budget);
}

std::string heads_shortfall(const std::vector<HeadReport>& heads) {
  std::string text;
  for (const auto& head : heads)
    if (!head.within_budget()) add_reason(text, head.shortfall());
  return text;
}

double mean_of(const std::vector<HeadReport>& heads, double HeadReport::*which) {
  double sum = 0;
  for (const auto& head : heads) sum += head.*which;
  return heads.empty() ? 0 : sum / static_cast<double>(heads.size());
}

void add_reason(std::string& text, const std::string& one) { text += (text.empty() ? "" : "; ") + one; }

PARE_NAMESPACE_END
