#pragma once

#include <cstddef>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// How far a task has come.
struct ProgressStep {
  std::string_view task;             ///< e.g. `calibrate`
  std::size_t done = 0;              ///< steps finished
  std::optional<std::size_t> total;  ///< steps in all, where known
  bool finished = false;             ///< the task is over, whether it reached `total` or not
};

/// Where progress is shown: a function that the host owns. The default shows nothing.
class Progress {
 public:
  using Sink = std::function<void(const ProgressStep&)>;

  /// Shows nothing.
  Progress() = default;
  explicit Progress(Sink sink) : sink_(std::move(sink)) {}
  /// On a terminal one bar that redraws itself; anywhere else one plain line when a task starts to count and one when
  /// it ends.
  static Progress to(std::FILE* stream = stderr);

  /// One task being counted; it reports its end when it goes out of scope.
  class Task {
   public:
    Task(const Progress& progress, std::string name, std::optional<std::size_t> total)
        : progress_(&progress), name_(std::move(name)), total_(total) {
      show(false);
    }
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;
    ~Task() {
      try {
        show(true);
      } catch (...) {  // a sink that throws must not end the program while another error is on its way
      }
    }
    /// Counts `steps` more.
    void advance(std::size_t steps = 1) {
      done_ += steps;
      show(false);
    }

   private:
    void show(bool finished) const {
      if (progress_->sink_) progress_->sink_({name_, done_, total_, finished});
    }
    const Progress* progress_;
    std::string name_;
    std::optional<std::size_t> total_;
    std::size_t done_ = 0;
  };

  /// Starts a task. @param total how many steps it has, where known
  [[nodiscard]] Task start(std::string name, std::optional<std::size_t> total = std::nullopt) const {
    return {*this, std::move(name), total};
  }

 private:
  Sink sink_;
};

PARE_NAMESPACE_END
