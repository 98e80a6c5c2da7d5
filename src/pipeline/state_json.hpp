#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "pare/graph/model.hpp"
#include "pare/pass/report.hpp"
#include "pare/pipeline/auto.hpp"

PARE_NAMESPACE_BEGIN

// What checkpoints hold beside models. The readers throw nlohmann's exceptions. Numbers come back bit for bit.

nlohmann::json json_of(double value);  ///< a string where it is not finite
double double_of(const nlohmann::json& value);
nlohmann::json json_of(const std::optional<double>& value);
std::optional<double> optional_of(const nlohmann::json& value);
nlohmann::json json_of(const Report& report);
Report report_of(const nlohmann::json& json);
nlohmann::json json_of(const Candidate& candidate);
Candidate candidate_of(const nlohmann::json& json);

/// Writes a model and what belongs to it as one checkpoint. @throws Error `pare.pipeline.108`
void write_state(const std::string& path, const Model& model, const nlohmann::json& facts);
/// Reads what belongs to it. @throws Error `pare.pipeline.107` for a file that is damaged or none, `fingerprint` of
/// another run, or another version
nlohmann::json read_facts(const std::string& path, const std::string& fingerprint);
/// Reads the model, which can be committed where `original` can. @throws Error `pare.pipeline.107`
Model read_model_of(const std::string& path, const Model& original);

/// Of everything in a model that a result depends on.
std::string fingerprint_of(const Model& model);
/// Makes a folder. @throws Error `pare.pipeline.108`
void make_folder(const std::string& folder);

PARE_NAMESPACE_END
