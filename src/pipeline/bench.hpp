#pragma once

#include <functional>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "pare/pipeline/auto.hpp"
#include "pipeline/head_judge.hpp"
#include "pipeline/journal.hpp"
#include "pipeline/recipes.hpp"

PARE_NAMESPACE_BEGIN

/// A recipe carried out and measured.
struct Built {
  LadderRecipe recipe;
  Candidate candidate;
  Model model;
  Report rows;
  std::optional<CompiledModel> compiled = {};  ///< not where a checkpoint had the candidate
};

/// Where the candidates of a climb are built, compiled and measured, once: a journal keeps them.
class Bench {
 public:
  Bench(const Model& model, const AutoOptions& options);

  [[nodiscard]] const Model& original() const noexcept { return original_; }
  Built& measure(LadderRecipe recipe);
  /// A model that is no candidate yet but took long to make. `draft` is a file for a training's own checkpoint.
  Applied once(const std::string& name, const std::function<Applied(const std::string& draft)>& make);
  [[nodiscard]] Built* find(const std::string& name);
  [[nodiscard]] std::list<Built>& built() noexcept { return built_; }
  [[nodiscard]] ContextOptions context(const Batches& calibration) const;

  [[nodiscard]] bool keeps_drop(const Built& built) const;
  [[nodiscard]] bool too_large(const Built& built) const;
  [[nodiscard]] bool too_slow(const Built& built) const;
  /// By how many times it passes the limit that it passes most; 0 without limits.
  [[nodiscard]] double excess(const Built& built) const;
  /// What a candidate misses, in words; empty within the budget.
  [[nodiscard]] std::string short_of(const Built& built) const;

  /// Before and after, for the chosen one, and the stages of all.
  [[nodiscard]] PipelineReport report(Built& chosen);

 private:
  /// What a candidate takes of one limit.
  struct Taken {
    bool of_size;  ///< or of time
    double share;  ///< of what is allowed
    std::string text;
  };
  [[nodiscard]] std::vector<Taken> taken(const Built& built) const;
  [[nodiscard]] bool judged() const { return options_.scores || !options_.folds.empty(); }
  [[nodiscard]] at::Tensor original_scores() const;
  [[nodiscard]] at::Tensor scores_of(const LadderRecipe& recipe, const CompiledModel& compiled) const;
  void judge(const LadderRecipe& recipe, const CompiledModel& compiled, Candidate& candidate) const;
  void check_cancelled(std::string_view next) const;
  void record(const Candidate& candidate, double seconds);
  [[nodiscard]] std::string fingerprint() const;

  const AutoOptions& options_;
  Batch example_;
  Model original_;
  Progress progress_;  // the caller's, and where a run may be cancelled
  Journal journal_;
  at::Tensor before_;
  HeadJudge heads_;
  std::list<Built> built_;  // references stay
  std::vector<ReportStage> stages_;
};

/// What is wrong with the options, before anything is run. @throws Error `pare.pipeline.101`, `.102`
void validate_auto(const AutoOptions& options);

PARE_NAMESPACE_END
