#include "pipeline/journal.hpp"

#include <filesystem>

#include "pare/core/error.hpp"
#include "pipeline/state_json.hpp"

PARE_NAMESPACE_BEGIN

Journal::Journal(std::string folder, std::string fingerprint, const Model& original)
    : folder_(std::move(folder)), fingerprint_(std::move(fingerprint)), original_(original) {
  make_folder(folder_);
}

std::string Journal::path() const {
  return (std::filesystem::path(folder_) / fmt::format("optimize-{:03}.pare", position_)).string();
}

std::string Journal::draft() const { return folder_.empty() ? "" : path() + ".training"; }

std::optional<Journal::Entry> Journal::next(const std::string& name) {
  if (folder_.empty() || !std::filesystem::exists(path())) return std::nullopt;
  auto facts = read_facts(path(), fingerprint_);
  if (facts.value("entry", "") != name)
    fail("pare.pipeline.107", path(), "the checkpoint holds '{}' where '{}' belongs: delete the folder to start anew",
         facts.value("entry", ""), name);
  Entry entry{read_model_of(path(), original_), std::move(facts)};
  ++position_;
  return entry;
}

void Journal::add(const std::string& name, const Model& model, nlohmann::json facts) {
  if (folder_.empty()) return;
  facts["fingerprint"] = fingerprint_;
  facts["entry"] = name;
  write_state(path(), model, facts);
  std::error_code ignored;
  std::filesystem::remove(draft(), ignored);
  ++position_;
}

PARE_NAMESPACE_END
