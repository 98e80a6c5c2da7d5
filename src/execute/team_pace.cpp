#include "execute/team_pace.hpp"

#include <algorithm>

PARE_NAMESPACE_BEGIN

namespace {

constexpr int kWindow = 16;      // calls that a mean remembers
constexpr int kEnoughCalls = 4;  // before a mean is believed
constexpr int kTrialCalls = 8;
constexpr double kForgets = 1.0005;  // a best time of long ago counts less and less
constexpr double kOutlier = 8;       // times the best: one hiccup does not outweigh the rest,
constexpr double kCollapse = 32;     // but one that lasts for time slices on end does
constexpr double kTimeSlices = 20e-3;
constexpr double kBetter = 0.9;  // a trial must win by this
constexpr double kShareOfTrials = 1 / 30.0;
constexpr double kShortestHold = 0.1, kLongestHold = 30;  // seconds between trials

}  // namespace

void TeamPace::Mean::add(double seconds) {
  calls = std::min(calls + 1, kWindow);
  value += (seconds - value) / calls;
}

int TeamPace::choose(Clock::time_point now) {
  if (full_ < 2) return full_;
  const std::lock_guard lock(mutex_);
  if (state_ == State::Reduced && now >= next_trial_ && reduced_.calls >= kEnoughCalls) {
    state_ = State::Trial;
    trial_seconds_ = 0;
    trial_calls_ = 0;
  }
  return state_ == State::Reduced ? full_ - 1 : full_;
}

void TeamPace::record(int threads, double seconds, Clock::time_point now) {
  if (full_ < 2) return;
  const std::lock_guard lock(mutex_);
  if (threads < full_) {
    if (state_ == State::Reduced) settle(seconds);
  } else if (state_ == State::Full) {
    watch(seconds, now);
  } else if (state_ == State::Trial) {
    judge(seconds, now);
  }
}

void TeamPace::watch(double seconds, Clock::time_point now) {
  best_ = best_ > 0 ? std::min(best_ * kForgets, seconds) : seconds;
  const bool collapsed = seconds > 10 * best_ + kTimeSlices;
  recent_.add(std::min(seconds, (collapsed ? kCollapse : kOutlier) * best_));
  // What one thread less should need, were the machine ours.
  const double affordable = std::max(1.5, 1.1 * full_ / (full_ - 1.0)) * best_;
  if (recent_.calls < kEnoughCalls || recent_.value <= affordable) return;
  state_ = State::Reduced;
  slow_mean_ = recent_.value;
  reduced_ = {};
  hold(0, now);
}

// Calls of the smaller team: was it the team at all?
void TeamPace::settle(double seconds) {
  reduced_.add(seconds);
  if (reduced_.calls != kEnoughCalls || reduced_.value <= slow_mean_) return;
  state_ = State::Full;
  best_ = std::max(best_, reduced_.value * (full_ - 1) / full_);  // everything became slower
  recent_ = {};
}

void TeamPace::judge(double seconds, Clock::time_point now) {
  trial_seconds_ += seconds;
  ++trial_calls_;
  const double spent = trial_seconds_ / reduced_.value;  // in calls of the smaller team
  if (trial_calls_ < kTrialCalls && spent < kTrialCalls) return;
  if (trial_calls_ >= kTrialCalls && spent < kBetter * trial_calls_) {
    state_ = State::Full;
    recent_ = {};
    best_ = std::min(best_, trial_seconds_ / trial_calls_);
    return;
  }
  state_ = State::Reduced;
  hold(trial_seconds_, now);
}

void TeamPace::hold(double trial_seconds, Clock::time_point now) {
  const double seconds = std::clamp(trial_seconds / kShareOfTrials, kShortestHold, kLongestHold);
  next_trial_ = now + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

PARE_NAMESPACE_END
