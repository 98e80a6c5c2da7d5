#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// What a climb has finished, in a folder, a file for each thing in the order it was done. A climb that starts again
/// asks for each before it does it: what it decides depends on nothing but what these files hold, so it comes by the
/// same way to where it was.
class Journal {
 public:
  /// Keeps nothing.
  Journal() = default;
  /// @param fingerprint of everything that the climb depends on
  /// @throws Error `pare.pipeline.108` when the folder cannot be made
  Journal(std::string folder, std::string fingerprint, const Model& original);

  /// One entry.
  struct Entry {
    Model model;
    nlohmann::json facts;
  };
  /// The next entry, where an earlier run has left it; else nothing, and `add` is to follow.
  /// @throws Error `pare.pipeline.107` for the entry of another run, of something else, or a damaged one
  std::optional<Entry> next(const std::string& name);
  /// @throws Error `pare.pipeline.108` when it cannot be written; those before stay
  void add(const std::string& name, const Model& model, nlohmann::json facts);

  /// A file for what the next entry is being made of; empty where nothing is kept. Removed by `add`.
  [[nodiscard]] std::string draft() const;

 private:
  [[nodiscard]] std::string path() const;
  std::string folder_, fingerprint_;
  Model original_;
  std::size_t position_ = 0;
};

PARE_NAMESPACE_END
