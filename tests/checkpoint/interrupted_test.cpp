// Writers that are stopped at any byte: a path holds the old file or the new one.
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <future>
#include <iostream>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/checkpoint/checkpoint.hpp"
#include "pare/mcu/write_c.hpp"
#include "pare/onnx/save.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

pare::Model digits(int seed) {
  torch::manual_seed(seed);
  auto bundle = models::make("digits_mlp");
  bundle.module->eval();
  const auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  const std::vector<pare::Batch> batches{bundle.example(4)};
  return pare::apply(pare::Quantizer{.rounding = pare::Rounding::Nearest}, model, {.calibration = batches}).model;
}

struct Writer {
  std::string error;               // what it raises when it cannot write
  std::vector<std::string> files;  // what it leaves, beside each other
  std::function<void(const pare::Model&, const std::string& folder)> write;
};

const std::vector<Writer>& writers() {
  static const std::vector<Writer> all{
      {"pare.checkpoint.121",
       {"net.pare"},
       [](const pare::Model& model, const std::string& folder) { pare::save_checkpoint(model, folder + "/net.pare"); }},
      {"pare.onnx.104",
       {"net.onnx"},
       [](const pare::Model& model, const std::string& folder) { pare::onnx::save(model, folder + "/net.onnx"); }},
      {"pare.mcu.104", {"net.h", "net.c"}, [](const pare::Model& model, const std::string& folder) {
         pare::mcu::write_c(model, folder + "/net.c");
       }}};
  return all;
}

std::vector<std::string> contents_of(const Writer& writer, const ScratchFolder& folder) {
  std::vector<std::string> all;
  for (const auto& file : writer.files) all.push_back(contents(folder.file(file)));
  return all;
}

constexpr int kRaised = 3, kSkipped = 4;

// Runs `call` in a process of its own. @return its exit status, or minus the signal that ended it
int in_child(const std::function<int()>& call) {
  const auto child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    at::set_num_threads(1);  // the team of the parent's threads is not here
    ::_exit(call());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

int outcome_of(const Writer& writer, const pare::Model& model, const std::string& folder) {
  try {
    writer.write(model, folder);
    return 0;
  } catch (const pare::Error& error) {
    return error.id() == writer.error ? kRaised : 1;
  }
}

// A process whose files end at `bytes`: the write that would pass it kills the process, or fails.
int write_up_to(std::size_t bytes, bool kills, const Writer& writer, const pare::Model& model,
                const ScratchFolder& folder) {
  return in_child([&] {
    const ::rlimit none{0, 0}, limit{bytes, bytes};
    ::setrlimit(RLIMIT_CORE, &none);
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::signal(SIGXFSZ, kills ? SIG_DFL : SIG_IGN);
    return outcome_of(writer, model, folder.path().string());
  });
}

}  // namespace

TEST_CASE("a process stopped at any byte leaves the old files or the new ones", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const auto before = digits(1), after = digits(2);
  for (const auto& writer : writers()) {
    DYNAMIC_SECTION(writer.files.back()) {
      const ScratchFolder folder;
      const auto files = static_cast<std::ptrdiff_t>(writer.files.size());
      writer.write(after, folder.path().string());
      const auto next = contents_of(writer, folder);
      writer.write(before, folder.path().string());
      const auto old = contents_of(writer, folder);
      REQUIRE(old != next);
      std::size_t largest = 0;
      for (const auto& file : next) largest = std::max(largest, file.size());
      const auto step = largest / 23 + 1;
      for (std::size_t bytes = 0; bytes < largest; bytes += step) {
        INFO(bytes << " of " << largest << " bytes");
        // Killed: what it had written is a draft of a clear name, which the next writer of the path removes.
        CHECK(write_up_to(bytes, true, writer, after, folder) == -SIGXFSZ);
        CHECK(contents_of(writer, folder) == old);
        CHECK(folder.count() > files);
        for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
          const auto name = entry.path().filename().string();
          CHECK((std::ranges::find(writer.files, name) != writer.files.end() ||
                 name.find(".partial-") != std::string::npos));
        }
        // A write that fails, as on a full disk: nothing is left of it, nor of the one before.
        CHECK(write_up_to(bytes, false, writer, after, folder) == kRaised);
        CHECK(contents_of(writer, folder) == old);
        CHECK(folder.count() == files);
      }
      CHECK(write_up_to(largest, true, writer, after, folder) == 0);
      CHECK(contents_of(writer, folder) == next);
      CHECK(folder.count() == files);
    }
  }
}

TEST_CASE("a full disk and a read-only folder leave nothing", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const auto model = digits(1);
  for (const auto& writer : writers()) {
    const ScratchFolder folder;
    const auto disk = folder.file("disk");
    std::filesystem::create_directory(disk);
    // A file system of one page, seen by the child alone; then the same, read-only.
    const auto status = in_child([&] {
      if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
          ::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=4k") != 0)
        return kSkipped;
      if (outcome_of(writer, model, disk) != kRaised || !std::filesystem::is_empty(disk)) return 1;
      if (::mount("tmpfs", disk.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=1m") != 0) return kSkipped;
      return outcome_of(writer, model, disk) == kRaised && std::filesystem::is_empty(disk) ? 0 : 2;
    });
    if (status == kSkipped) {
      std::cerr << "skipped: only root may mount a disk that is full\n";
      return;
    }
    CHECK(status == 0);
  }
}

TEST_CASE("a header of another network is no match for its source", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto source = folder.file("net.c"), header = folder.file("net.h");
  const auto compiles = [&] {
    return std::system(fmt::format("cc -fsyntax-only '{}' 2>/dev/null", source).c_str()) == 0;
  };
  pare::mcu::write_c(digits(1), source);
  const auto first = contents(header);
  CHECK(compiles());
  pare::mcu::write_c(digits(2), source);
  CHECK(compiles());
  std::ofstream(header, std::ios::binary | std::ios::trunc) << first;
  CHECK_FALSE(compiles());
}

TEST_CASE("a link stays a link, and what is no plain file is written to", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const auto model = digits(1);
  for (const auto& writer : writers()) {
    if (writer.files.size() > 1) continue;  // a header may not be a pipe
    DYNAMIC_SECTION(writer.files.back()) {
      const ScratchFolder folder, elsewhere;
      writer.write(model, elsewhere.path().string());
      const auto plain = contents_of(writer, elsewhere).front();
      const auto path = folder.file(writer.files.front()), target = folder.file("target");
      std::ofstream(target) << "old";
      std::filesystem::create_symlink("target", path);
      writer.write(model, folder.path().string());
      CHECK(std::filesystem::is_symlink(path));
      CHECK(contents(target) == plain);
      CHECK(folder.count() == 2);
      std::filesystem::remove(path);
      REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
      auto read = std::async(std::launch::async, [&] { return contents(path); });
      writer.write(model, folder.path().string());
      CHECK(read.get() == plain);
      CHECK(std::filesystem::is_fifo(path));
      CHECK(folder.count() == 2);
    }
  }
}
