// Runs that are killed at any moment, and what they find when they are started again.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "pare/checkpoint/checkpoint.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pipeline/auto.hpp"
#include "pare/pipeline/optimization_pipeline.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/pipeline/board.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

using namespace pare::literals;

constexpr auto kKilledFolder = "PARE_PIPELINE_KILL_FOLDER", kKilledKind = "PARE_PIPELINE_KILL_KIND";

// Less is asked for than calibration alone can reach: the last rungs are climbed.
pare::AutoOptions climb_of(const Board& board, const std::string& checkpoint) {
  auto options = board.options(700_B);
  options.training.data = pare::TrainingData::shuffled({board.points}, 64, 1);
  options.training.fit = {.epochs = 30, .rate = 1e-2, .checkpoint_every = 20};
  options.checkpoint = checkpoint;
  return options;
}

pare::PipelineResult pipeline_of(const Board& board, const std::string& checkpoint) {
  pare::PipelineOptions options;
  options.calibration = pare::Batches(board.points.slice(0, 0, 256));
  options.heads = {{"fields", pare::top1_scores(board.unseen, Board::field(board.unseen)), 5_pct}};
  options.seconds = 0.01;
  options.checkpoint = checkpoint;
  return pare::OptimizationPipeline{pare::Pruner<>{.macs = 10_pct}, pare::Pruner<>{.macs = 70_pct}, pare::Quantizer{}}
      .run(board.model, options);
}

std::string heads_text(const std::vector<pare::HeadReport>& heads) {
  std::string text;
  for (const auto& head : heads)
    text += fmt::format("  {} {:a} {:a} {:a} {:a} {:a}\n", head.name, head.before, head.after, head.drop.drop,
                        head.drop.low, head.drop.high);
  return text;
}

// Everything that a report says, times left out, to the last bit.
std::string text_of(const pare::PipelineReport& report) {
  auto text = fmt::format("{:a} {:a} {} {} {}\n", report.before.metric.value_or(-1), report.after.metric.value_or(-1),
                          report.before.weight_bytes, report.after.weight_bytes, report.shortfall);
  text += heads_text(report.heads);
  for (const auto& stage : report.steps.stages())
    text += fmt::format("{} {} {} {:a} {}\n", stage.pass, stage.kept, stage.reason, stage.metric.value_or(-1),
                        stage.weight_bytes.value_or(0));
  for (const auto& row : report.steps.rows()) {
    text += fmt::format("{} {} {} {} {}", row.layer, row.op, row.pass, pare::to_string(row.decision), row.reason);
    for (const auto& [name, value] : row.figures) text += fmt::format(" {} {:a}", name, value);
    text += "\n";
  }
  return text;
}

std::string text_of(const pare::AutoResult& result) {
  auto text = text_of(result.report);
  for (const auto& candidate : result.candidates)
    text +=
        fmt::format("{} {:a} {} {} {} {}\n{}", candidate.name, candidate.measured.metric.value_or(-1), candidate.stored,
                    candidate.kept, candidate.reason, candidate.plan.text(), heads_text(candidate.heads));
  return text;
}

// A whole run as a process would make it: everything from the start, with what the folder has of an earlier one.
void run_killed(const std::filesystem::path& folder, const std::string& kind) {
  const Board board;
  const auto state = (folder / "state").string();
  const auto leave = [&](const pare::Model& model, const std::string& text) {
    std::ofstream(folder / "report.txt") << text;
    pare::save_checkpoint(model, (folder / "result.pare").string(), {.pack = false});
  };
  if (kind == "optimize") {
    const auto found = pare::optimize(board.model, climb_of(board, state));
    leave(found.model, text_of(found));
  } else {
    const auto result = pipeline_of(board, state);
    leave(result.model, text_of(result.report));
  }
}

pid_t start_killed(const ScratchFolder& folder, const char* kind) {
  const auto log = folder.file("log");
  REQUIRE(::setenv(kKilledFolder, folder.path().c_str(), 1) == 0);
  REQUIRE(::setenv(kKilledKind, kind, 1) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::execl("/proc/self/exe", "test_pipeline", "[killed]", "--out", log.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  REQUIRE(child > 0);
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

// Lets it go on until its folder holds `files` files more than now, and a little longer, then kills it.
int kill_after(pid_t child, const ScratchFolder& folder, std::ptrdiff_t files, std::chrono::milliseconds later) {
  const auto count = [&] {
    std::error_code none;
    std::filesystem::directory_iterator it(folder.path() / "state", none);
    return none ? 0 : std::distance(begin(it), end(it));
  };
  const auto goal = count() + files;
  int status = 0;
  while (count() < goal) {
    if (::waitpid(child, &status, WNOHANG) == child) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::this_thread::sleep_for(later);
  ::kill(child, SIGKILL);
  return wait_for(child);
}

void kill_and_resume(const char* kind) {
  const ScratchFolder straight, folder;
  REQUIRE(wait_for(start_killed(straight, kind)) == 0);
  const auto model = contents(straight.file("result.pare")), report = contents(straight.file("report.txt"));
  REQUIRE_FALSE(model.empty());
  INFO(report);

  std::mt19937 random(7);
  int kills = 0, status = -1;
  for (int life = 0; life < 6 && status != 0; ++life) {
    status = kill_after(start_killed(folder, kind), folder, static_cast<std::ptrdiff_t>(random() % 3),
                        std::chrono::milliseconds(random() % 150));
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ++kills;
  }
  CHECK(kills > 0);
  if (status != 0) status = wait_for(start_killed(folder, kind));
  INFO(contents(folder.file("log")));
  CHECK(status == 0);
  CHECK(contents(folder.file("report.txt")) == report);
  CHECK(contents(folder.file("result.pare")) == model);
}

// Runs `call` while files may not grow beyond `bytes`.
template <class Call>
void with_full_disk(std::size_t bytes, Call&& call) {
  ::rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const ::rlimit limit{bytes, before.rlim_max};
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &limit);
  call();
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
}

}  // namespace

// Not a test of its own: the process that the tests below start and kill.
TEST_CASE("the run that is killed", "[.][killed]") {
  const char *folder = std::getenv(kKilledFolder), *kind = std::getenv(kKilledKind);
  REQUIRE(folder != nullptr);
  REQUIRE(kind != nullptr);
  run_killed(folder, kind);
}

TEST_CASE("a pipeline killed at any moment and started again ends bit for bit as one left alone", "[pipeline][kill]") {
  kill_and_resume("pipeline");
}

TEST_CASE("a climb killed at any moment and started again ends bit for bit as one left alone", "[auto][kill]") {
  kill_and_resume("optimize");
}

TEST_CASE("a climb goes on from its checkpoint, and refuses what is not its own", "[auto]") {
  const Board board;
  const ScratchFolder folder;
  auto options = climb_of(board, folder.file("state"));
  options.training = {};
  options.explore = 0;
  options.budget.bytes = {};
  options.budget.max_drop = 10_pct;
  int builds = 0;
  options.scores = [&, inner = options.scores](const pare::Predictor& predict) {
    ++builds;
    return inner(predict);
  };
  const auto first = pare::optimize(board.model, options);
  const auto asked = builds;
  CHECK(asked >= 3);
  builds = 0;
  const auto again = pare::optimize(board.model, options);
  CHECK(builds == 1);  // the captured model alone
  CHECK(text_of(again) == text_of(first));
  CHECK(torch::equal(again.model(board.unseen), first.model(board.unseen)));
  CHECK(pare::sqnr_db(first.compiled(board.unseen), again.compiled(board.unseen)) > 25.0);
  const auto int8 = folder.file("state/optimize-001.pare"), whole = contents(int8);
  REQUIRE_FALSE(whole.empty());
  const auto resume = [&] { (void)pare::optimize(board.model, options); };

  SECTION("another way to compile or to time") {
    options.compile.node_precision["0"] = at::kBFloat16;
    CHECK(raises("pare.pipeline.107", resume));
    options.compile.node_precision.clear();
    options.example = {board.unseen.narrow(0, 0, 3)};
    CHECK(raises("pare.pipeline.107", resume));
  }
  SECTION("another model, seed or budget") {
    auto other = board.model;
    other.set_weight("4.bias", torch::zeros({2}));
    CHECK(raises("pare.pipeline.107", [&] { (void)pare::optimize(other, options); }));
    options.seed = 1;
    CHECK(raises("pare.pipeline.107", resume));
    options.seed = 0;
    options.budget.max_drop = 11_pct;
    CHECK(raises("pare.pipeline.107", resume));
  }
  SECTION("a truncated file, and one that is something else") {
    for (const auto size : {whole.size() / 2, whole.size() - 1, std::size_t{5}, std::size_t{0}}) {
      std::ofstream(int8, std::ios::binary | std::ios::trunc) << whole.substr(0, size);
      CHECK(raises("pare.pipeline.107", resume));
    }
    pare::save_checkpoint(board.model, int8);
    CHECK(raises("pare.pipeline.107", resume));
  }
  SECTION("a later version") {
    const pare::SafeTensors file(int8);
    auto metadata = file.metadata();
    auto& state = metadata.at("pipeline");
    const std::string now = "\"version\":2";
    REQUIRE(state.find(now) != std::string::npos);
    state.replace(state.find(now), now.size(), "\"version\":9");
    pare::save_safetensors(int8, file.tensors(), metadata);
    CHECK(raises("pare.pipeline.107", resume));
  }
  SECTION("a full disk leaves what was there, and the next run goes on from it") {
    std::filesystem::remove(int8);
    with_full_disk(2000, [&] { CHECK(raises("pare.pipeline.108", resume)); });
    CHECK(std::filesystem::exists(folder.file("state/optimize-000.pare")));
    CHECK_FALSE(std::filesystem::exists(int8));
    CHECK(text_of(pare::optimize(board.model, options)) == text_of(first));
  }
  SECTION("a folder that cannot be made") {
    std::ofstream(folder.file("file")) << "x";
    options.checkpoint = folder.file("file");
    CHECK(raises("pare.pipeline.108", resume));
  }
  SECTION("scores that break half-way leave what was finished") {
    std::filesystem::remove(int8);
    options.scores = [inner = options.scores, count = 0](const pare::Predictor& predict) mutable {
      return ++count > 1 ? torch::full({1000}, std::nan("")) : inner(predict);
    };
    CHECK(raises("pare.pipeline.103", resume));
    CHECK(std::filesystem::exists(folder.file("state/optimize-000.pare")));
  }
}

TEST_CASE("a climb does not go on from what another training left", "[auto]") {
  const Board board;
  const ScratchFolder folder;
  auto options = climb_of(board, folder.file("state"));
  options.explore = 0;
  options.budget = {.max_drop = 60_pct};  // kept by int8: nothing is trained yet
  const auto resume = [&] { (void)pare::optimize(board.model, options); };
  resume();
  using Fit = pare::FitOptions;
  const std::vector<std::function<void(Fit&)>> changes{
      [](Fit& fit) { fit.optimizer = Fit::Optimizer::Sgd; },
      [](Fit& fit) { fit.momentum = 0.5; },
      [](Fit& fit) { fit.decay = Fit::Decay::Linear; },
      [](Fit& fit) { fit.warm_up = 10_pct; },
      [](Fit& fit) { fit.clip = 0.5; },
      [](Fit& fit) { fit.accumulate = 2; },
      [](Fit& fit) { fit.mixed = true; },
      [](Fit& fit) { fit.keep_zeros = true; },
  };
  const auto before = options.training.fit;
  for (const auto& change : changes) {
    options.training.fit = before;
    change(options.training.fit);
    CHECK(raises("pare.pipeline.107", resume));
  }
  options.training.fit = before;
  CHECK_NOTHROW(resume());
}

TEST_CASE("a climb is cancelled from another thread, and goes on later", "[auto]") {
  const Board board;
  const ScratchFolder folder;
  auto options = climb_of(board, folder.file("state"));
  std::atomic<bool> stop = false, over = false;
  options.cancelled = [&] { return stop.load(); };
  // Once the first training has left a checkpoint.
  std::thread other([&] {
    const auto training = [&] {
      std::error_code none;
      for (const auto& file : std::filesystem::directory_iterator(folder.file("state"), none))
        if (file.path().extension() == ".training") return true;
      return false;
    };
    while (!training() && !over) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stop = true;
  });
  CHECK(raises("pare.pipeline.105", [&] { (void)pare::optimize(board.model, options); }));
  over = true;
  other.join();
  stop = false;
  const auto resumed = pare::optimize(board.model, options);
  options.checkpoint = {};
  const auto straight = pare::optimize(board.model, options);
  CHECK(text_of(resumed) == text_of(straight));
  CHECK(torch::equal(resumed.model(board.unseen), straight.model(board.unseen)));
}
