#include "core/replace_file.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string_view>

PARE_NAMESPACE_BEGIN

namespace {

namespace fs = std::filesystem;
constexpr std::string_view kMark = ".partial-";

/// An open file, closed at the end.
class Descriptor {
 public:
  Descriptor(const std::string& path, int flags)
      : file_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}  // NOLINT(cppcoreguidelines-pro-type-vararg)
  ~Descriptor() {
    if (file_ >= 0) ::close(file_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] bool sync() const { return file_ >= 0 && ::fsync(file_) == 0; }
  /// Held until the descriptor is closed, by this process's end at the latest.
  [[nodiscard]] bool lock() const { return file_ >= 0 && ::flock(file_, LOCK_EX | LOCK_NB) == 0; }

 private:
  int file_;
};

// Drafts of `path` whose process is gone, and that no process on another machine holds.
void remove_abandoned(const fs::path& path) {
  const auto start = path.filename().string() + std::string(kMark);
  const auto folder = path.parent_path().empty() ? fs::path(".") : path.parent_path();
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const auto name = at->path().filename().string();
    if (!name.starts_with(start)) continue;
    pid_t process = 0;
    const auto [rest, bad] = std::from_chars(name.data() + start.size(), name.data() + name.size(), process);
    if (bad != std::errc() || process <= 0 || ::kill(process, 0) == 0 || errno != ESRCH) continue;
    if (const Descriptor draft(at->path().string(), O_RDONLY); draft.lock()) {
      std::error_code ignored;
      fs::remove(at->path(), ignored);
    }
  }
}

// The file that a link stands for: links stay.
std::string resolved(const std::string& path) {
  std::error_code error;
  const auto target = fs::weakly_canonical(path, error);
  return error ? path : target.string();
}

// A device or a pipe: there is no content to keep, and a rename would take its place.
bool is_stream(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error) && !fs::is_regular_file(path, error) && !fs::is_directory(path, error);
}

/// A file that is written beside the place where it will be, and is gone unless it was put there.
class Draft {
 public:
  explicit Draft(const std::string& target)
      : target_(resolved(target)), in_place_(is_stream(target_)), path_(in_place_ ? target_ : name_for(target_)) {}
  ~Draft() {
    std::error_code ignored;
    if (!placed_ && !in_place_) fs::remove(path_, ignored);
  }
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  bool write(const std::function<void(std::ostream&)>& fill) {
    std::error_code error;
    if (fs::is_directory(target_, error)) return false;
    if (in_place_) return written(fill);
    remove_abandoned(target_);
    const Descriptor file(path_, O_WRONLY | O_CREAT | O_TRUNC);
    static_cast<void>(file.lock());  // not every file system has locks
    return written(fill) && file.sync();
  }
  [[nodiscard]] fs::path target() const { return target_; }
  bool place() {
    if (in_place_) return true;
    std::error_code error;
    fs::rename(path_, target_, error);
    placed_ = !error;
    return placed_;
  }

 private:
  [[nodiscard]] bool written(const std::function<void(std::ostream&)>& fill) const {
    std::ofstream stream(path_, std::ios::binary | std::ios::trunc);
    if (stream) fill(stream);
    stream.close();
    return static_cast<bool>(stream);
  }

  // Two writers of one path must not share a draft.
  static std::string name_for(const std::string& target) {
    static std::atomic<unsigned> counter{0};
    return target + std::string(kMark) + std::to_string(::getpid()) + "-" + std::to_string(counter++);
  }

  std::string target_;
  bool in_place_;
  std::string path_;
  bool placed_ = false;
};

}  // namespace

std::string replace_files(const std::vector<FileDraft>& files) {
  std::vector<std::unique_ptr<Draft>> drafts;
  for (const auto& file : files) {
    drafts.push_back(std::make_unique<Draft>(file.path));
    if (!drafts.back()->write(file.write)) return file.path;
  }
  for (std::size_t i = 0; i < files.size(); ++i)
    if (!drafts[i]->place()) return files[i].path;
  // A rename lasts only once the folder is on disk; not every file system lets a folder be synced.
  for (const auto& draft : drafts) {
    const auto folder = draft->target().parent_path().string();
    static_cast<void>(Descriptor(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY).sync());
  }
  return {};
}

bool replace_file(const std::string& path, const std::function<void(std::ostream&)>& write) {
  return replace_files({{path, write}}).empty();
}

PARE_NAMESPACE_END
