// What a process that keeps one core busy does to a compiled model's latency.
//   neighbour_benchmark [network] [threads] [seconds]
// A row for the machine to ourselves and one beside the neighbour, each with and without
// `CompileOptions::adapt_threads`, and for one thread.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"

namespace {

/// A process in a session of its own, as another user's would be, that never sleeps.
class Neighbour {
 public:
  Neighbour() : process_(fork()) {
    if (process_ != 0) return;
    setsid();
    for (volatile bool forever = true; forever;) {
    }
  }
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;
  ~Neighbour() {
    if (process_ <= 0) return;
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }

 private:
  pid_t process_;
};

void measure(const char* title, const pare::CompiledModel& compiled, const std::vector<torch::Tensor>& inputs,
             double seconds) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  double total = 0;
  while (total < seconds * 1000) {
    const auto start = Clock::now();
    static_cast<void>(compiled.run(inputs));
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    total += times.back();
  }
  std::ranges::sort(times);
  const auto at = [&](double q) { return times[static_cast<std::size_t>(q * static_cast<double>(times.size() - 1))]; };
  fmt::print("{:<34} {:>7} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f}\n", title, times.size(),
             total / static_cast<double>(times.size()), at(0.5), at(0.9), at(0.99), times.back());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "mobilenetv2";
  const int threads = argc > 2 ? std::stoi(argv[2]) : 2;
  const double seconds = argc > 3 ? std::stod(argv[3]) : 5;
  const torch::NoGradGuard no_grad;
  at::set_num_threads(threads);
  auto bundle = models::make(name);
  models::settle(bundle);
  bundle.module->eval();
  const auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  std::vector<pare::Batch> calibration{bundle.example(4)};
  const pare::Quantizer quick{.rounding = pare::Rounding::Nearest, .correct_bias = false};
  const auto int8 = pare::apply(quick, model, {.calibration = calibration}).model;
  const auto inputs = bundle.example(1);
  const auto adapting = pare::compile(int8, {.threads = threads}),
             fixed = pare::compile(int8, {.threads = threads, .adapt_threads = false}),
             single = pare::compile(int8, {.threads = 1});
  fmt::print("{} int8, batch 1, ms a call\n{:<34} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}\n", name, "", "calls", "mean",
             "median", "p90", "p99", "longest");
  const auto several = fmt::format("{} threads", threads);
  const auto rows = [&](const std::string& where) {
    measure(fmt::format("{}{}, adapting", where, several).c_str(), adapting, inputs, seconds);
    measure(fmt::format("{}{}, fixed", where, several).c_str(), fixed, inputs, seconds);
    measure(fmt::format("{}1 thread", where).c_str(), single, inputs, seconds);
  };
  rows("");
  {
    const Neighbour neighbour;
    rows("busy core: ");
  }
  measure("afterwards: adapting", adapting, inputs, seconds);
  return 0;
}
