#pragma once

#include <cstddef>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Bytes of the smallest page.
inline constexpr std::size_t kPage = 4096;

/// Zeroed memory straight from the system, in large pages where it is large.
///
/// Not from the heap: freeing blocks of tens of megabytes there moves the allocator's thresholds, and with them the
/// speed of everything else in the process.
class PageMemory {
 public:
  PageMemory() = default;
  /// @throws std::bad_alloc
  explicit PageMemory(std::size_t bytes);
  PageMemory(PageMemory&& other) noexcept { swap(other); }
  PageMemory& operator=(PageMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~PageMemory();

  [[nodiscard]] char* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }

 private:
  void swap(PageMemory& other) noexcept;
  char* data_ = nullptr;
  std::size_t bytes_ = 0;
};

PARE_NAMESPACE_END
