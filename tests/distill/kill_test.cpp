#include <signal.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <thread>

#include "pare/capture/capture.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/distill/distiller.hpp"
#include "pare/distill/hints.hpp"
#include "pare/pass/apply.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

namespace nn = torch::nn;

constexpr auto kFolderVariable = "PARE_KILL_TEST_FOLDER";

struct KilledNetImpl : nn::Module {
  explicit KilledNetImpl(int64_t width)
      : first(register_module("first", nn::Linear(6, width))),
        norm(register_module("norm", nn::BatchNorm1d(width))),
        drop(register_module("drop", nn::Dropout(0.2))),
        last(register_module("last", nn::Linear(width, 3))) {}
  torch::Tensor forward(const torch::Tensor& x) { return last(drop(torch::relu(norm(first(x))))); }
  nn::Linear first;
  nn::BatchNorm1d norm;
  nn::Dropout drop;
  nn::Linear last;
};
TORCH_MODULE(KilledNet);

pare::Model make_killed(int64_t width, uint64_t seed) {
  torch::manual_seed(seed);
  KilledNet net(width);
  return pare::capture(net, torch::randn({2, 6}));
}

// A whole run, as a process would make it: everything from the start, with what the folder has of an earlier one.
void run_in(const std::filesystem::path& folder) {
  const auto file = [&](const char* name) { return (folder / name).string(); };
  const auto model = make_killed(8, 1), teacher = make_killed(12, 2);
  torch::manual_seed(3);
  const auto x = torch::randn({96, 6});
  const pare::Distiller tutor{
      .teacher = teacher,
      .loss = pare::KnowledgeDistillation{} + pare::Hints{{"norm", "norm"}},
      .training = pare::TrainingData::shuffled({x}, 8, 4),
      .fit = {.epochs = 50,
              .rate = 3e-3,
              .judge = [](const pare::Model& judged) { return -judged.weight("last.bias").norm().item<double>(); },
              .checkpoint = file("training"),
              .checkpoint_every = 3,
              .seed = 5},
      .cache = {.path = file("teacher")}};
  const auto student = pare::apply(tutor, model).model;
  std::map<std::string, at::Tensor> weights;
  for (const auto& [path, weight] : student.weights()) weights[path] = weight.tensor.detach();
  pare::save_safetensors(file("student"), weights);
}

// Starts this program again, on a folder.
pid_t start(const ScratchFolder& folder) {
  const auto log = folder.file("log");
  REQUIRE(::setenv(kFolderVariable, folder.path().c_str(), 1) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::execl("/proc/self/exe", "test_distill", "[killed]", "--out", log.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  REQUIRE(child > 0);
  return child;
}

// Waits for its end, or, where `until` is given, kills it as soon as that holds. @return the status of its end
int finish(pid_t child, const std::function<bool()>& until = {}) {
  int status = 0;
  while (until && !until()) {
    if (::waitpid(child, &status, WNOHANG) == child) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (until) ::kill(child, SIGKILL);
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace

// Not a test of its own: the process that the test below starts and kills.
TEST_CASE("the training that is killed", "[.][killed]") {
  const char* folder = std::getenv(kFolderVariable);
  REQUIRE(folder != nullptr);
  run_in(folder);
}

TEST_CASE("a process killed at any moment and started again ends bit for bit as one left alone", "[fit][kill]") {
  const ScratchFolder straight, folder;
  REQUIRE(finish(start(straight)) == 0);
  const auto expected = contents(straight.file("student"));
  REQUIRE_FALSE(expected.empty());

  // Some time after it has first written something: while it trains, writes, judges, or has just started.
  std::mt19937 random(1);
  int kills = 0, status = -1;
  const auto written = [&](const char* name) { return contents(folder.file(name)); };
  for (int life = 0; life < 10 && status != 0; ++life) {
    const auto before = written("training");
    const bool early = life < 2;  // before or while the teacher answers
    std::optional<std::chrono::steady_clock::time_point> moment;
    const std::chrono::milliseconds later(random() % 80);
    status = finish(start(folder), [&] {
      const auto now = std::chrono::steady_clock::now();
      if (!moment && (early ? std::filesystem::exists(folder.file("log")) : written("training") != before))
        moment = now + later;
      return moment && now >= *moment;
    });
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ++kills;
  }
  CHECK(kills > 0);
  if (status != 0) status = finish(start(folder));
  INFO(written("log"));
  CHECK(status == 0);
  CHECK(written("student") == expected);
  CHECK(written("teacher") == contents(straight.file("teacher")));
}
