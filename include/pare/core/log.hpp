#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <functional>
#include <string_view>
#include <utility>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// How much a message matters.
enum class Severity : unsigned char { Debug, Info, Warning };

/// Where messages go: a function that the host owns. The default says nothing; the library never prints by itself.
///
///     pare::Log{[](pare::Severity, std::string_view line) { spdlog::info(line); }}
class Log {
 public:
  using Sink = std::function<void(Severity, std::string_view)>;

  /// Silent.
  Log() = default;
  /// Sends messages of at least `threshold` to `sink`, one line each without a line end.
  explicit Log(Sink sink, Severity threshold = Severity::Info) : sink_(std::move(sink)), threshold_(threshold) {}
  /// Lines on a C stream, standard error by default.
  static Log to(std::FILE* stream = stderr, Severity threshold = Severity::Info);

  [[nodiscard]] bool enabled(Severity severity) const noexcept { return sink_ && severity >= threshold_; }
  /// Formats and sends, when somebody listens.
  template <class... Args>
  void write(Severity severity, fmt::format_string<Args...> format, Args&&... args) const {
    if (enabled(severity)) sink_(severity, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void debug(fmt::format_string<Args...> format, Args&&... args) const {
    write(Severity::Debug, format, std::forward<Args>(args)...);
  }
  template <class... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) const {
    write(Severity::Info, format, std::forward<Args>(args)...);
  }
  template <class... Args>
  void warning(fmt::format_string<Args...> format, Args&&... args) const {
    write(Severity::Warning, format, std::forward<Args>(args)...);
  }

 private:
  Sink sink_;
  Severity threshold_ = Severity::Info;
};

PARE_NAMESPACE_END
