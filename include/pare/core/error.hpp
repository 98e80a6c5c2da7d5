#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// The one exception of the library: a stable id, where it happened, and what to do about it.
///
/// `what()` reads `[pare.prune.104] layer9.*: no layer or module has this name`. Ids are indexed in
/// `docs/errors.md` and never change their meaning, so a host can map them.
class Error : public std::runtime_error {
 public:
  /// @param id      stable id, `pare.<area>.<number>`
  /// @param path    module path, file or node that the error is about; may be empty
  /// @param message what is wrong and what remedies it, one line
  Error(std::string_view id, std::string_view path, std::string_view message);

  /// The stable id, e.g. `pare.capture.102`.
  [[nodiscard]] const std::string& id() const noexcept { return id_; }
  /// The module path, file or node the error is about; may be empty.
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string id_;
  std::string path_;
};

/// Throws an `Error` whose message is formatted with fmt.
template <class... Args>
[[noreturn]] void fail(std::string_view id, std::string_view path, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(id, path, fmt::format(format, std::forward<Args>(args)...));
}

PARE_NAMESPACE_END
