#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>

// What the command lines of the examples share.
namespace program {

/// Runs `body`, which parses the arguments and works; whatever goes wrong is one line on stderr.
/// @return what `body` returns, 0 for --help, 2 for wrong arguments, `failed` for any other error
template <class Body>
int run(const std::string& name, CLI::App& app, int failed, Body&& body) {
  const auto say = [&](const std::string& text) {
    fmt::print(stderr, "{}: {}\n", name, text.substr(0, text.find('\n')));  // LibTorch's errors go on with a stack
  };
  try {
    return body();
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    say(error.what());
    return 2;
  } catch (const std::exception& error) {
    say(error.what());
    return failed;
  }
}

/// A number within these bounds, which NaN, unlike with `CLI::Range`, is not.
inline CLI::Validator within(double low, double high) {
  return {[=](const std::string& text) {
            double value = 0;
            if (CLI::detail::lexical_cast(text, value) && value >= low && value <= high) return std::string();
            return fmt::format("{} is not in range {} to {}", text, low, high);
          },
          fmt::format("in [{} - {}]", low, high)};
}

/// A text with something in it: a variable of the shell that is not set is no file to leave out.
inline CLI::Validator not_empty() {
  return {[](const std::string& text) { return text.empty() ? std::string("the name is empty") : std::string(); }, ""};
}

/// Where a file can be written: found out before hours of work.
inline CLI::Validator writable_file() {
  return {[](const std::string& text) {
            if (text.empty()) return std::string("the name is empty");
            const std::filesystem::path path(text);
            const auto folder = path.parent_path().empty() ? std::filesystem::path(".") : path.parent_path();
            std::error_code error;
            if (std::filesystem::is_directory(path, error)) return text + " is a folder";
            if (!std::filesystem::is_directory(folder, error)) return folder.string() + " is no folder";
            const bool there = std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error);
            const bool may = ::access((there ? path : folder).c_str(), W_OK) == 0;
            return may ? std::string() : text + " cannot be written";
          },
          ""};
}

/// Writes all of a text file or leaves the file that is there. What is no plain file, a pipe for instance, is written
/// to.
/// @return whether that could be done
[[nodiscard]] inline bool write_text(const std::string& path, const std::string& text) {
  namespace fs = std::filesystem;
  std::error_code error;
  const bool in_place = fs::exists(path, error) && !fs::is_regular_file(path, error);
  const auto target = in_place ? path : fs::weakly_canonical(path, error).string();  // a link stays one
  const auto draft = in_place ? path : fmt::format("{}.partial-{}", target, ::getpid());
  std::ofstream file(draft);
  file << text;
  file.close();
  bool written = static_cast<bool>(file);
  if (in_place) return written;
  if (written) {
    fs::rename(draft, target, error);
    written = !error;
  }
  if (!written) fs::remove(draft, error);
  return written;
}

}  // namespace program
