#include "checkpoint/mapped_file.hpp"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

PARE_NAMESPACE_BEGIN

namespace checkpoint {

at::Tensor map_file(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);  // NOLINT(cppcoreguidelines-pro-type-vararg)
  if (file < 0) return {};
  struct ::stat facts {};
  void* pages = MAP_FAILED;
  const bool regular = ::fstat(file, &facts) == 0 && S_ISREG(facts.st_mode);
  const auto size = static_cast<std::size_t>(regular ? facts.st_size : 0);
  // Private and writable: an operator that writes in place gets its own copy of a page instead of a signal.
  if (size > 0) pages = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  ::close(file);
  if (regular && size == 0) return at::empty({0}, at::kByte);
  if (pages == MAP_FAILED) return {};
  return at::from_blob(
      pages, {static_cast<std::int64_t>(size)}, [size](void* at) { ::munmap(at, size); }, at::kByte);
}

}  // namespace checkpoint

PARE_NAMESPACE_END
