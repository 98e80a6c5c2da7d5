#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "pare/core/batches.hpp"
#include "pare/core/log.hpp"
#include "pare/core/progress.hpp"
#include "pare/graph/rewriter.hpp"
#include "pare/pass/analyses.hpp"
#include "pare/pass/instrumentation.hpp"
#include "pare/pass/pass.hpp"
#include "pare/pass/reporter.hpp"
#include "pare/pass/transaction.hpp"

PARE_NAMESPACE_BEGIN

/// What passes are run with.
struct ContextOptions {
  Batches calibration = {};          ///< inputs that stand for real ones, for passes that measure
  std::uint64_t seed = 0;            ///< for whatever a pass draws at random
  Log log = {};                      ///< where messages go; silent by default
  Progress progress = {};            ///< where progress is shown; nowhere by default
  Instrumentation instruments = {};  ///< callbacks around every pass
  /// Keeps a copy of the weights' numbers, so that a failed pass is undone even where it wrote tensors in place.
  /// Costs one copy of the weights while passes run.
  bool backup_weights = true;
};

/// What a pass works with: the Model's editor, the report, the calibration data, cached analyses.
class Context {
 public:
  /// @param model must outlive the context and stay where it is
  explicit Context(Model& model, ContextOptions options = {});
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  [[nodiscard]] Rewriter& rewriter() noexcept { return rewriter_; }
  [[nodiscard]] Reporter& report() noexcept { return reporter_; }
  [[nodiscard]] Analyses& analyses() noexcept { return analyses_; }
  /// Short for `analyses().get<A>()`.
  template <class A>
  const A& analysis() {
    return analyses_.get<A>();
  }

  /// The calibration batches. @throws Error `pare.pass.102` when there are none: the pass cannot do without
  [[nodiscard]] const Batches& calibration() const;
  [[nodiscard]] bool has_calibration() const;
  [[nodiscard]] std::uint64_t seed() const noexcept { return options_.seed; }
  [[nodiscard]] const Log& log() const noexcept { return options_.log; }
  [[nodiscard]] const Progress& progress() const noexcept { return options_.progress; }
  /// The name of the pass that is running.
  [[nodiscard]] std::string_view pass() const noexcept { return pass_; }

  /// Everything reported so far.
  [[nodiscard]] Report& full_report() noexcept { return report_; }
  [[nodiscard]] Model& model() noexcept { return rewriter_.model(); }

  /// Runs a pass as a transaction: when it throws, leaves a graph that does not verify, writes a weight in place or is
  /// refused by an instrument, the Model is bit for bit as it was and the error goes on to the caller. The rows the
  /// pass wrote become `declined`, with the reason.
  /// @throws Error `pare.pass.101` for a Model that is not this context's, `.103` the pass broke the graph, `.104` it
  ///         changed what it said it preserved, `.107` it wrote a weight in place, `.108` LibTorch failed inside it,
  ///         and whatever the pass or an instrument throws
  Preserved run(const AnyPass& pass, Model& model);

 private:
  Preserved run_checked(const AnyPass& pass, Transaction& transaction);

  ContextOptions options_;
  Rewriter rewriter_;
  Report report_;
  Reporter reporter_;
  Analyses analyses_;
  const Transaction* transaction_ = nullptr;  // of the pass that is running
  std::string pass_;
  std::size_t depth_ = 0;
  mutable std::optional<bool> has_calibration_;  // asked once: of a data loader, it costs a batch
};

PARE_NAMESPACE_END
