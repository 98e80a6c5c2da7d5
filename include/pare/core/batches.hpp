#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

/// The inputs of one forward, in the order the model takes them: usually one tensor, `[batch, ...]`.
using Batch = std::vector<at::Tensor>;

/// What a range may hold to be read as batches: a tensor, the tensors of one forward, or an example with its inputs in
/// `.data` (as LibTorch's data loaders yield).
template <class T>
concept BatchLike = std::convertible_to<const T&, at::Tensor> || std::convertible_to<const T&, Batch> ||
    requires(const T& example) {
  { example.data } -> std::convertible_to<at::Tensor>;
};

/// An element of a range, whatever reference it comes as.
template <class T>
concept BatchElement = BatchLike<std::remove_cvref_t<T>>;

/// What `begin()` and `end()` make a range of batches.
template <class T>
concept BatchRange = requires(T& range) {
  { *std::begin(range) } -> BatchElement;
  std::end(range);
};

/// A range of batches that can be read again from its start, as often as an algorithm needs.
///
/// Nothing is copied or computed until it is iterated, so a source larger than memory works. Cheap to copy; copies
/// share the source.
///
///     pare::Batches{tensor_a, tensor_b}                                   // two batches of one input each
///     pare::Batches{std::vector<pare::Batch>{{ids, mask}, {ids2, mask2}}}  // two inputs a batch
///     pare::Batches{[&](std::size_t i) -> std::optional<pare::Batch> { ... }}  // generated, until an empty optional
///     pare::Batches::over(*loader)                                        // any range, which must outlive the Batches
///
/// Reading may stop anywhere: what the workers of a LibTorch data loader have prefetched by then is dropped, so that it
/// can be begun again. As with the loader itself, one reading has to be over, or dropped, before the next one begins.
class Batches {
 public:
  /// The next batch, or an empty optional at the end.
  using Reader = std::function<std::optional<Batch>()>;
  /// Starts reading from the front.
  using Source = std::function<Reader()>;
  /// The batch at a position, or an empty optional past the end.
  using Generator = std::function<std::optional<Batch>(std::size_t)>;

  /// No batches.
  Batches() = default;
  /// One single-input batch for each tensor.
  template <class... Tensors>
  requires(sizeof...(Tensors) > 0 && (std::same_as<std::remove_cvref_t<Tensors>, at::Tensor> && ...))
      Batches(Tensors&&... tensors)  // NOLINT(google-explicit-constructor): a tensor is a batch
      : Batches(std::vector<at::Tensor>{std::forward<Tensors>(tensors)...}) {}
  /// Any container of batches, which it keeps; iterated lazily.
  template <class Range>
  requires(!std::same_as<std::remove_cvref_t<Range>, Batches> && BatchRange<std::remove_cvref_t<Range>> &&
           std::copy_constructible<std::remove_cvref_t<Range>>)
      Batches(Range&& range) {  // NOLINT(google-explicit-constructor): a container of batches is batches
    auto kept = std::make_shared<std::remove_cvref_t<Range>>(std::forward<Range>(range));
    if constexpr (requires { std::size(*kept); }) size_ = static_cast<std::size_t>(std::size(*kept));
    source_ = [kept] { return reader(*kept, AsBatch{}, kept); };
  }
  /// A generator: called with 0, 1, 2, … until it returns an empty optional, or `size` times where that is given. It
  /// must give the same batch for the same position.
  template <class Generate>
  requires std::is_invocable_r_v<std::optional<Batch>, Generate&, std::size_t> Batches(
      Generate generate, std::optional<std::size_t> size = std::nullopt)  // NOLINT(google-explicit-constructor)
      : source_(positions(Generator(std::move(generate)), size)), size_(size) {}

  /// From a source that is read front to back, e.g. a file.
  static Batches from(Source source, std::optional<std::size_t> size = std::nullopt);
  /// Over a range that the caller keeps alive while anything reads it, e.g. `*data_loader`: `begin()` starts it afresh.
  template <class Range>
  static Batches over(Range& range, std::optional<std::size_t> size = std::nullopt) {
    return over(range, AsBatch{}, size);
  }
  /// The same, of elements that `make` turns into batches.
  template <class Range, class Make>
  requires std::is_invocable_r_v<Batch, const Make&, decltype(*std::declval<Range&>().begin())>
  static Batches over(Range& range, Make make, std::optional<std::size_t> size = std::nullopt) {
    return from([&range, make = std::move(make)] { return reader(range, make, nullptr); }, size);
  }

  /// How many batches there are, where the source knows.
  [[nodiscard]] std::optional<std::size_t> size() const noexcept { return source_ ? size_ : std::size_t{0}; }
  /// Whether there is no batch at all; reads one when the size is unknown.
  [[nodiscard]] bool empty() const;
  /// The first `count` batches (all of them when there are fewer).
  [[nodiscard]] Batches first(std::size_t count) const;

  /// Reads the batches front to back, once. Every `begin()` starts again.
  class Iterator {
   public:
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    Iterator() = default;
    explicit Iterator(Reader reader);
    const Batch& operator*() const { return *batch_; }
    const Batch* operator->() const { return &*batch_; }
    Iterator& operator++();
    void operator++(int) { ++*this; }
    friend bool operator==(const Iterator& iterator, std::default_sentinel_t) { return !iterator.batch_.has_value(); }

   private:
    std::shared_ptr<Reader> reader_;
    std::optional<Batch> batch_;
  };
  [[nodiscard]] Iterator begin() const;
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

 private:
  struct AsBatch {
    template <class T>
    Batch operator()(const T& element) const {
      if constexpr (std::convertible_to<const T&, at::Tensor>) {
        return Batch{element};
      } else if constexpr (std::convertible_to<const T&, Batch>) {
        return element;
      } else {
        return Batch{element.data};
      }
    }
  };

  // By its members: LibTorch's headers of data loaders would cost every user seconds.
  template <class T>
  static constexpr bool kIsDataLoader = requires(T& loader) {
    typename T::BatchRequestType;
    loader.options().max_jobs;
    loader.join();
  };

  // A data loader cannot be begun while batches of the last time are on the way. Its own `reset()` drops them as this
  // does; the public way, to its end, would load all the data.
  template <class Loader>
  struct Prefetched : Loader {
    static void drop(Loader& loader) { (loader.*(&Prefetched::shuttle_)).drain(); }
  };

  // One way through a range.
  template <class Range>
  class Position {
   public:
    Position(Range& range, std::shared_ptr<void> keep)
        : keep_(std::move(keep)), range_(range), element_(range.begin()) {}
    Position(const Position&) = delete;
    Position& operator=(const Position&) = delete;
    ~Position() {
      if constexpr (kIsDataLoader<Range>)
        if (!at_end_) Prefetched<Range>::drop(range_);
    }

    template <class Make>
    std::optional<Batch> next(const Make& make) {
      if (at_end_) return std::nullopt;
      if (!fresh_) ++element_;
      fresh_ = false;
      at_end_ = element_ == range_.end();
      if (at_end_) return std::nullopt;
      return make(*element_);
    }

   private:
    std::shared_ptr<void> keep_;
    Range& range_;
    decltype(std::declval<Range&>().begin()) element_;
    bool fresh_ = true, at_end_ = false;
  };

  template <class Range, class Make>
  static Reader reader(Range& range, const Make& make, std::shared_ptr<void> keep) {
    return
        [make, position = std::make_shared<Position<Range>>(range, std::move(keep))] { return position->next(make); };
  }

  static Source positions(Generator generate, std::optional<std::size_t> size);

  Source source_;
  std::optional<std::size_t> size_;
};

PARE_NAMESPACE_END
