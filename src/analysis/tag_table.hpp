#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pare/graph/ids.hpp"

PARE_NAMESPACE_BEGIN

/// Tags name the entries along the axes of weights (and of tensors that the graph fills with a constant); tags that
/// must be removed together are united.
class TagTable {
 public:
  /// One axis whose entries have tags `first` to `first + count - 1`.
  struct Axis {
    ValueId source;  ///< a weight, or the result of a node that fills a tensor
    std::int64_t dim;
    std::int64_t first;
    std::int64_t count;
  };
  /// Why a tag is frozen; `hidden` for axes that are no channels (the window of a convolution).
  struct Reason {
    std::string text;
    bool hidden = false;
  };

  /// New tags for an axis. @return the first one
  std::int64_t add(ValueId source, std::int64_t dim, std::int64_t count);
  /// The representative of a tag's class.
  [[nodiscard]] std::int64_t find(std::int64_t tag) const;
  void unite(std::int64_t a, std::int64_t b);
  /// The first reason of a class wins, unless it is hidden.
  void freeze(std::int64_t tag, std::int32_t reason);
  std::int32_t reason(std::string text, bool hidden = false);
  /// The reason that froze a tag's class, or null.
  [[nodiscard]] const Reason* frozen(std::int64_t tag) const;
  /// Forgets what is frozen; unions stay.
  void thaw();

  [[nodiscard]] const std::vector<Axis>& axes() const noexcept { return axes_; }
  [[nodiscard]] std::int64_t size() const noexcept { return static_cast<std::int64_t>(parent_.size()); }
  /// The axis that a tag lies on.
  [[nodiscard]] std::size_t axis_of(std::int64_t tag) const { return axis_of_[static_cast<std::size_t>(tag)]; }

 private:
  std::vector<Axis> axes_;
  mutable std::vector<std::int64_t> parent_;
  std::vector<std::int32_t> reason_of_;  // of a class, at its representative; -1: not frozen
  std::vector<std::uint32_t> axis_of_;
  std::vector<Reason> reasons_;
};

PARE_NAMESPACE_END
