#include "core/replace_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>

PARE_NAMESPACE_BEGIN

namespace {

bool sync(const std::string& path, int flags) {
  const int file = ::open(path.c_str(), flags | O_CLOEXEC);  // NOLINT(cppcoreguidelines-pro-type-vararg)
  if (file < 0) return false;
  const bool done = ::fsync(file) == 0;
  ::close(file);
  return done;
}

}  // namespace

bool replace_file(const std::string& path, const std::function<void(std::ostream&)>& write) {
  static std::atomic<unsigned> counter{0};
  // Two writers of one path must not share a draft.
  const auto draft = path + ".partial-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
  std::error_code error;
  bool done = false;
  if (!std::filesystem::is_directory(path, error)) {
    std::ofstream stream(draft, std::ios::binary | std::ios::trunc);
    try {
      if (stream) write(stream);
    } catch (...) {
      stream.close();
      std::filesystem::remove(draft, error);
      throw;
    }
    stream.close();
    done = static_cast<bool>(stream) && sync(draft, O_WRONLY);
  }
  if (done) {
    std::filesystem::rename(draft, path, error);
    done = !error;
  }
  if (!done) {
    std::filesystem::remove(draft, error);
    return false;
  }
  // The rename itself lasts only once the folder is on disk; not every file system lets a folder be synced.
  const auto folder = std::filesystem::path(path).parent_path().string();
  static_cast<void>(sync(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY));
  return true;
}

PARE_NAMESPACE_END
