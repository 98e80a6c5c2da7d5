#pragma once

#include <chrono>
#include <mutex>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Chooses between a full team of threads and one with a thread less, from how long calls took.
///
/// OpenMP divides each kernel evenly and waits for the slowest thread, spinning. When another process takes one of the
/// cores, every one of a model's hundred barriers may wait for a time slice; one thread fewer is then many times
/// faster, at a known price. The smaller team takes over when the full one's mean falls behind what the smaller should
/// need; the full team is tried again from time to time, in a fixed share of all time however much a trial costs.
class TeamPace {
 public:
  using Clock = std::chrono::steady_clock;

  explicit TeamPace(int threads) : full_(threads) {}

  /// The team size of the next call.
  int choose(Clock::time_point now = Clock::now());
  /// What a call took.
  void record(int threads, double seconds, Clock::time_point now = Clock::now());

 private:
  enum class State { Full, Reduced, Trial };

  /// A mean over about the last sixteen calls.
  struct Mean {
    double value = 0;
    int calls = 0;
    void add(double seconds);
  };

  void watch(double seconds, Clock::time_point now);
  void settle(double seconds);
  void judge(double seconds, Clock::time_point now);
  void hold(double trial_seconds, Clock::time_point now);

  const int full_;
  std::mutex mutex_;
  State state_ = State::Full;
  double best_ = 0;        ///< of the full team
  double slow_mean_ = 0;   ///< of the full team when it was given up
  Mean recent_, reduced_;  ///< of the full and of the smaller team
  double trial_seconds_ = 0;
  int trial_calls_ = 0;
  Clock::time_point next_trial_{};
};

PARE_NAMESPACE_END
