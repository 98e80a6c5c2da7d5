#include "pare/core/progress.hpp"

#include <fmt/format.h>

#ifdef _WIN32
#include <io.h>
#else
#include <unistd.h>
#endif

#include <algorithm>
#include <memory>
#include <mutex>

PARE_NAMESPACE_BEGIN

namespace {

bool is_terminal(std::FILE* stream) {
#ifdef _WIN32
  return _isatty(_fileno(stream)) != 0;
#else
  return isatty(fileno(stream)) != 0;
#endif
}

std::string count(const ProgressStep& step) {
  return step.total ? fmt::format("{}/{}", step.done, *step.total) : fmt::format("{}", step.done);
}

std::string bar(const ProgressStep& step) {
  constexpr std::size_t kWidth = 30;
  if (!step.total || *step.total == 0) return fmt::format("\r\033[K{} {}", step.task, count(step));
  const std::size_t filled = kWidth * std::min(step.done, *step.total) / *step.total;
  return fmt::format("\r\033[K{} [{:#<{}}{:.<{}}] {}", step.task, "", filled, "", kWidth - filled, count(step));
}

}  // namespace

Progress Progress::to(std::FILE* stream) {
  auto mutex = std::make_shared<std::mutex>();
  const bool terminal = is_terminal(stream);
  return Progress([stream, mutex, terminal](const ProgressStep& step) {
    const std::lock_guard lock(*mutex);
    if (terminal) {
      fmt::print(stream, "{}{}", bar(step), step.finished ? "\n" : "");
    } else if (step.finished) {
      fmt::print(stream, "{}: {} done\n", step.task, count(step));
    } else if (step.done == 0) {
      fmt::print(stream, "{}: {}\n", step.task, step.total ? fmt::format("{} steps", *step.total) : "started");
    }
    std::fflush(stream);
  });
}

PARE_NAMESPACE_END
