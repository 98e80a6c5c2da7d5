#pragma once

#include <functional>
#include <string>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What `commit` did to a live module, and the way back.
///
/// It holds the module's former tensors and the optimizer's former state: let it go when there is nothing to undo.
/// Module and optimizer must outlive a call of `roll_back()`.
class Committed {
 public:
  Committed() = default;
  /// @param undo steps in the order in which they were done
  Committed(std::vector<std::string> tensors, std::vector<std::string> notes, std::vector<std::function<void()>> undo)
      : tensors_(std::move(tensors)), notes_(std::move(notes)), undo_(std::move(undo)) {}

  /// Paths of the parameters and buffers that were written.
  [[nodiscard]] const std::vector<std::string>& tensors() const noexcept { return tensors_; }
  /// What else there is to say, e.g. of an optimizer's state.
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept { return notes_; }

  /// Puts parameters, buffers, gradients, options and the optimizer's state back to what they were right before the
  /// commit, bit for bit, whatever training did since. A second call does nothing.
  void roll_back() {
    for (auto step = undo_.rbegin(); step != undo_.rend(); ++step) (*step)();
    undo_.clear();
  }

 private:
  std::vector<std::string> tensors_;
  std::vector<std::string> notes_;
  std::vector<std::function<void()>> undo_;
};

PARE_NAMESPACE_END
