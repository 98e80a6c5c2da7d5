#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What steps of compiled models take on this machine, by what they do and on which sizes: measured once, kept in a
/// folder.
///
///     pare::LatencyTable table(".cache/pare");
///
/// Each machine has a file of its own there: one that says another machine than this (processor, instruction sets,
/// threads, versions of oneDNN, LibTorch and pare) is not read. A file that is damaged is not believed, `notes()` says
/// so, and the next `save()` replaces it.
class LatencyTable {
 public:
  /// @param folder  where it is kept; empty: in memory alone
  /// @param threads of compiled models; 0: as many as LibTorch uses
  explicit LatencyTable(std::string folder = {}, int threads = 0);

  /// What this machine is to the table, in a line.
  [[nodiscard]] const std::string& machine() const noexcept { return machine_; }
  /// The file that holds it; empty for a table in memory.
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] int threads() const noexcept { return threads_; }
  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
  /// What went wrong with the file: it is another machine's, or damaged.
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept { return notes_; }

  /// The number kept under a key: milliseconds of a step, mostly.
  [[nodiscard]] std::optional<double> find(const std::string& key) const;
  /// The mean over the keys that share the first `common` characters with this one, of those with the most words behind
  /// that are the same at the same place.
  [[nodiscard]] std::optional<double> similar(const std::string& key, std::size_t common) const;
  /// Keeps a number, in place of another one under this key. @param key without tabs and line ends
  /// @throws Error `pare.analysis.111` for a number that is negative or none, or another key
  void set(const std::string& key, double number);
  /// Writes the file, whole or not at all. Entries that another process has added meanwhile stay.
  /// @throws Error `pare.analysis.112` when it cannot be written
  void save();

 private:
  void read(bool fresh);

  std::string path_, machine_;
  int threads_;
  std::map<std::string, double> entries_;
  std::vector<std::string> notes_;
};

PARE_NAMESPACE_END
