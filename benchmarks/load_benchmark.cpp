// What it takes to run a saved model: checkpoints read whole beside checkpoints mapped.
//
//   build/examples/zoo --model resnet50 --recipe int8 --save resnet50.pare
//   build/benchmarks/load_benchmark resnet50.pare ...
//
// Each row is the median of processes of its own, the file being in the page cache: milliseconds until there is a
// Model, until it is compiled, and memory of the process's own (RssAnon, above what it had before) after each and at
// its peak.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "pare/checkpoint/checkpoint.hpp"
#include "pare/checkpoint/map_checkpoint.hpp"
#include "pare/core/error.hpp"
#include "pare/execute/compile.hpp"

namespace {

constexpr int kRuns = 7;
using Row = std::array<double, 5>;

// A line of /proc/self/status in MiB.
double mebibytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == field + ":") {
      double kibibytes = 0;
      status >> kibibytes;
      return kibibytes / 1024;
    }
  return 0;
}

Row measure(const std::string& path, bool maps) {
  const auto before = mebibytes("RssAnon"), whole_before = mebibytes("VmRSS");
  const auto start = std::chrono::steady_clock::now();
  const auto milliseconds = [&] {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  };
  Row row{};
  pare::Model model = maps ? pare::map_checkpoint(path) : pare::load_checkpoint(path);
  row[0] = milliseconds();
  row[1] = mebibytes("RssAnon") - before;
  const auto compiled = pare::compile(model, {.tune = false});
  row[2] = milliseconds();
  row[4] = mebibytes("VmHWM") - whole_before;
  model = {};
  row[3] = mebibytes("RssAnon") - before;
  return row;
}

// In a process of its own, which has not run anything yet.
Row in_child(const std::string& path, bool maps) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) throw std::runtime_error("no pipe");
  const auto child = ::fork();
  if (child == 0) {
    const auto row = measure(path, maps);
    ::_exit(::write(ends[1], row.data(), sizeof row) == sizeof row ? 0 : 1);
  }
  Row row{};
  const bool whole = ::read(ends[0], row.data(), sizeof row) == sizeof row;
  ::close(ends[0]);
  ::close(ends[1]);
  ::waitpid(child, nullptr, 0);
  if (!whole) throw std::runtime_error("a run of " + path + " failed");
  return row;
}

void benchmark(const std::string& path, bool maps) {
  std::vector<Row> rows;
  for (int run = 0; run < kRuns; ++run) rows.push_back(in_child(path, maps));
  Row median{};
  for (std::size_t column = 0; column < median.size(); ++column) {
    std::ranges::nth_element(rows, rows.begin() + kRuns / 2, {}, [&](const Row& row) { return row[column]; });
    median[column] = rows[kRuns / 2][column];
  }
  const auto file = std::filesystem::path(path).filename().string();
  std::printf("| %s | %ju | %s | %.1f | %.1f | %.1f | %.1f | %.1f |\n", file.c_str(),
              static_cast<std::uintmax_t>(std::filesystem::file_size(path)), maps ? "mapped" : "read", median[0],
              median[1], median[2], median[3], median[4]);
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IONBF, 0);  // children must not print what the parent has not printed yet
  std::printf(
      "| file | bytes | | Model ms | own MiB | compiled ms | own MiB | peak MiB "
      "|\n|---|---|---|---|---|---|---|---|\n");
  for (int i = 1; i < argc; ++i)
    for (const bool maps : {false, true}) benchmark(argv[i], maps);
  return 0;
}
