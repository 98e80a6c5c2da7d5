#include "execute/onednn/page_memory.hpp"

#include <sys/mman.h>

#include <new>
#include <utility>

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::size_t kLargePage = std::size_t{2} << 20;

}  // namespace

PageMemory::PageMemory(std::size_t bytes) {
  const auto page = bytes >= kLargePage ? kLargePage : kPage;
  bytes = (bytes + page - 1) / page * page;
  if (bytes == 0) return;
  auto* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (bytes >= kLargePage) madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: refusal costs speed only
#endif
  data_ = static_cast<char*>(memory);
  bytes_ = bytes;
}

PageMemory::~PageMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

void PageMemory::swap(PageMemory& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
}

PARE_NAMESPACE_END
