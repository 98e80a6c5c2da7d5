#include "pare/core/batches.hpp"

#include <algorithm>

PARE_NAMESPACE_BEGIN

Batches Batches::from(Source source, std::optional<std::size_t> size) {
  Batches batches;
  batches.source_ = std::move(source);
  batches.size_ = size;
  return batches;
}

bool Batches::empty() const { return size() ? *size() == 0 : !source_()().has_value(); }

Batches Batches::first(std::size_t count) const {
  if (!source_) return {};
  auto size = size_;
  if (size) size = std::min(*size, count);
  return from(
      [source = source_, count]() -> Reader {
        return [next = source(), left = count]() mutable -> std::optional<Batch> {
          return left-- > 0 ? next() : std::nullopt;
        };
      },
      size);
}

Batches::Iterator::Iterator(Reader reader)
    : reader_(std::make_shared<Reader>(std::move(reader))), batch_((*reader_)()) {}

Batches::Iterator& Batches::Iterator::operator++() {
  batch_ = (*reader_)();
  return *this;
}

Batches::Iterator Batches::begin() const { return source_ ? Iterator(source_()) : Iterator(); }

Batches::Source Batches::positions(Generator generate, std::optional<std::size_t> size) {
  return [generate = std::move(generate), size]() -> Reader {
    return [generate, size, position = std::size_t{0}]() mutable -> std::optional<Batch> {
      if (size && position >= *size) return std::nullopt;
      auto batch = generate(position++);
      if (size && !batch)
        fail("pare.core.101", "", "the batch generator was said to have {} batches and ended after {}", *size,
             position - 1);
      return batch;
    };
  };
}

PARE_NAMESPACE_END
