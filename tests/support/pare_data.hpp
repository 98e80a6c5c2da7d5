#pragma once

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>

/// The folder or file `name` of the real models and data sets (PARE_DATA; by default `shared/data` beside the project's
/// folder), or nothing, said on stderr, where it is not there.
inline std::optional<std::string> pare_data(const std::string& name) {
  const char* given = std::getenv("PARE_DATA");
  const std::filesystem::path root = given != nullptr && *given != '\0'
                                         ? std::filesystem::path(given)
                                         : std::filesystem::path(PARE_SOURCE_DIR) / ".." / "shared" / "data";
  if (std::filesystem::exists(root / name)) return (root / name).string();
  std::cerr << "skipped: " << (root / name).string() << " is not there (set PARE_DATA)\n";
  return std::nullopt;
}
