// The choice between a full team and one thread less, on a clock of our own.
#include "src/execute/team_pace.hpp"

#include "tests/support/catch.hpp"

namespace {

/// A machine on which a call takes as long as the test says; time passes by calls.
class Machine {
 public:
  explicit Machine(int threads) : pace_(threads), threads_(threads) {}

  /// Calls for `duration` seconds. @return how many of them ran with fewer threads.
  int run(double duration, double full, double reduced) {
    int fewer = 0;
    for (const auto end = now_ + seconds(duration); now_ < end;) {
      const int team = pace_.choose(now_);
      const double time = team == threads_ ? full : reduced;
      fewer += team < threads_ ? 1 : 0;
      ++calls_;
      now_ += seconds(time);
      pace_.record(team, time, now_);
    }
    return fewer;
  }
  [[nodiscard]] int calls() const { return calls_; }
  /// The team of the next call.
  int team() { return pace_.choose(now_); }

 private:
  static pare::TeamPace::Clock::duration seconds(double count) {
    return std::chrono::duration_cast<pare::TeamPace::Clock::duration>(std::chrono::duration<double>(count));
  }
  pare::TeamPace pace_;
  int threads_, calls_ = 0;
  pare::TeamPace::Clock::time_point now_{};
};

}  // namespace

TEST_CASE("a quiet machine keeps the whole team, hiccups or not", "[execute]") {
  Machine machine(2);
  CHECK(machine.run(1, 1.5e-3, 2.6e-3) == 0);
  CHECK(machine.run(9e-3, 9e-3, 2.6e-3) == 0);  // one slow call
  CHECK(machine.run(1, 1.5e-3, 2.6e-3) == 0);
}

TEST_CASE("a team that collapses gives up a thread at once and takes it back when it may", "[execute]") {
  Machine machine(2);
  machine.run(1, 1.5e-3, 2.6e-3);
  machine.run(0.4, 0.4, 2.6e-3);  // one call that took four hundred milliseconds
  CHECK(machine.team() == 1);
  // Beside the neighbour nearly all calls run with one thread: trials take a thirtieth of the time, however slow.
  const int before = machine.calls();
  const int fewer = machine.run(60, 0.4, 2.6e-3);
  const int full = machine.calls() - before - fewer;
  CHECK(full >= 1);
  CHECK(full <= 8);
  CHECK(fewer > 15000);
  // The neighbour leaves.
  machine.run(40, 1.5e-3, 2.6e-3);
  CHECK(machine.team() == 2);
  CHECK(machine.run(5, 1.5e-3, 2.6e-3) == 0);
}

TEST_CASE("slowness that a smaller team shares is not the team's", "[execute]") {
  Machine machine(4);
  machine.run(1, 1e-3, 1.3e-3);
  machine.run(2, 5e-3, 7e-3);  // everything takes five times as long
  CHECK(machine.team() == 4);
}

TEST_CASE("one thread stays one thread", "[execute]") {
  Machine machine(1);
  machine.run(1, 1e-3, 1e-3);
  machine.run(2, 0.5, 0.5);
  CHECK(machine.team() == 1);
}
