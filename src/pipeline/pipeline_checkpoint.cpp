#include "pipeline/pipeline_checkpoint.hpp"

#include <filesystem>

#include "core/fingerprint.hpp"
#include "pare/core/error.hpp"
#include "pipeline/state_json.hpp"

PARE_NAMESPACE_BEGIN

PipelineCheckpoint::PipelineCheckpoint(const std::string& folder, const Model& model,
                                       const std::vector<std::string>& passes, std::uint64_t seed)
    : path_((std::filesystem::path(folder) / "pipeline.pare").string()), original_(model) {
  make_folder(folder);
  Fingerprint fingerprint;
  fingerprint.add(fmt::format("pipeline {}", seed));
  for (const auto& pass : passes) fingerprint.add(pass);
  fingerprint.add(fingerprint_of(model));
  fingerprint_ = fingerprint.text();
}

std::optional<PipelineState> PipelineCheckpoint::load() const {
  if (!std::filesystem::exists(path_)) return std::nullopt;
  const auto facts = read_facts(path_, fingerprint_);
  try {
    PipelineState state;
    state.stages = facts.at("stages");
    state.before = optional_of(facts.at("before"));
    state.after = optional_of(facts.at("after"));
    state.report = report_of(facts.at("report"));
    state.model = read_model_of(path_, original_);
    return state;
  } catch (const nlohmann::json::exception& error) {
    fail("pare.pipeline.107", path_, "the checkpoint is damaged ({}): delete it to start anew", error.what());
  }
}

void PipelineCheckpoint::save(const PipelineState& state) const {
  write_state(path_, state.model,
              {{"fingerprint", fingerprint_},
               {"stages", state.stages},
               {"before", json_of(state.before)},
               {"after", json_of(state.after)},
               {"report", json_of(state.report)}});
}

PARE_NAMESPACE_END
