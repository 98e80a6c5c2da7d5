#include "pipeline/pipeline_checkpoint.hpp"

#include <ATen/ATen.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/fingerprint.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/text.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Json = nlohmann::json;

constexpr int kVersion = 1;
constexpr auto kState = "pare.pipeline";

Json optional(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }
std::optional<double> optional(const Json& value) {
  return value.is_null() ? std::nullopt : std::optional<double>(value.get<double>());
}

Json to_json(const Report& report) {
  Json rows = Json::array(), stages = Json::array();
  for (const auto& row : report.rows()) {
    Json figures = Json::object();
    for (const auto& [name, value] : row.figures) figures[name] = value;
    rows.push_back({row.layer, row.op, row.pass, row.decision == Decision::Done, row.reason, figures});
  }
  for (const auto& stage : report.stages())
    stages.push_back({stage.pass, stage.kept, stage.reason, stage.seconds, optional(stage.metric),
                      stage.weight_bytes ? Json(*stage.weight_bytes) : Json(nullptr)});
  return {{"rows", rows}, {"stages", stages}};
}

Report report_of(const Json& json) {
  Report report;
  for (const auto& row : json.at("rows")) {
    ReportRow one{row.at(0), row.at(1), row.at(2), row.at(3).get<bool>() ? Decision::Done : Decision::Declined,
                  row.at(4), {}};
    for (const auto& [name, value] : row.at(5).items()) one.figures[name] = value.get<double>();
    report.add(std::move(one));
  }
  for (const auto& stage : json.at("stages")) {
    ReportStage one;
    one.pass = stage.at(0);
    one.kept = stage.at(1);
    one.reason = stage.at(2);
    one.seconds = stage.at(3);
    one.metric = optional(stage.at(4));
    if (!stage.at(5).is_null()) one.weight_bytes = stage.at(5).get<std::size_t>();
    report.add(std::move(one));
  }
  return report;
}

Json to_json(const Weights& weights) {
  Json all = Json::object();
  for (const auto& [path, weight] : weights) {
    Json narrowings = Json::array();
    for (const auto& one : weight.narrowings) narrowings.push_back({one.dim, one.kept});
    all[path] = {{"parameter", weight.is_parameter}, {"aliases", weight.aliases}, {"narrowings", narrowings}};
  }
  return all;
}

Weights weights_of(const Json& json, const SafeTensors& file) {
  Weights weights;
  for (const auto& [path, entry] : json.items()) {
    Weight weight;
    weight.tensor = file.at(path).clone();
    weight.is_parameter = entry.at("parameter");
    if (weight.is_parameter && weight.tensor.is_floating_point()) weight.tensor.requires_grad_(true);
    weight.aliases = entry.at("aliases").get<std::vector<std::string>>();
    for (const auto& one : entry.at("narrowings"))
      weight.narrowings.push_back({one.at(0).get<std::int64_t>(), one.at(1).get<std::vector<std::int64_t>>()});
    weights.emplace(path, std::move(weight));
  }
  return weights;
}

}  // namespace

PipelineCheckpoint::PipelineCheckpoint(std::string folder, const Model& model, const std::vector<std::string>& passes,
                                       std::uint64_t seed)
    : path_((std::filesystem::path(folder) / "pipeline.safetensors").string()), original_(model) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail("pare.pipeline.108", folder, "the checkpoint folder cannot be made: {}", error.message());
  Fingerprint fingerprint;
  fingerprint.add(fmt::format("{} {}", kVersion, seed));
  for (const auto& pass : passes) fingerprint.add(pass);
  fingerprint.add(print(model.graph()));
  for (const auto& [path, weight] : model.weights()) {
    fingerprint.add(path);
    if (!weight.tensor.defined()) continue;
    const auto values = weight.tensor.detach().contiguous();
    fingerprint.add(values.const_data_ptr(), values.nbytes());
  }
  fingerprint_ = fingerprint.text();
}

std::optional<PipelineState> PipelineCheckpoint::load() const {
  if (!std::filesystem::exists(path_)) return std::nullopt;
  try {
    const SafeTensors file(path_);
    const auto held = file.metadata().find(kState);
    if (held == file.metadata().end()) fail("pare.pipeline.107", path_, "the file is no checkpoint of a pipeline");
    const auto json = Json::parse(held->second);
    if (json.at("fingerprint") != fingerprint_)
      fail("pare.pipeline.107", path_,
           "the checkpoint is of another model, other passes, another seed or another version; give another folder or "
           "delete it");
    PipelineState state;
    state.stages = json.at("stages");
    state.model = Model(parse_graph(json.at("graph").get<std::string>()), weights_of(json.at("weights"), file));
    state.model.set_can_train(json.at("can_train"));
    state.model.set_origin(original_.origin());
    for (const auto& note : json.at("notes")) state.model.note(note);
    state.model.eval();
    state.before = optional(json.at("before"));
    state.after = optional(json.at("after"));
    state.report = report_of(json.at("report"));
    return state;
  } catch (const nlohmann::json::exception&) {
    fail("pare.pipeline.107", path_,
         "the file is no checkpoint of a pipeline, or a damaged one; delete it to start anew");
  }
}

void PipelineCheckpoint::save(const PipelineState& state) const {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [path, weight] : state.model.weights())
    if (weight.tensor.defined()) tensors.emplace(path, weight.tensor.detach());
  const Json json{{"fingerprint", fingerprint_},          {"stages", state.stages},
                  {"graph", print(state.model.graph())},  {"weights", to_json(state.model.weights())},
                  {"can_train", state.model.can_train()}, {"notes", state.model.notes()},
                  {"before", optional(state.before)},     {"after", optional(state.after)},
                  {"report", to_json(state.report)}};
  try {
    save_safetensors(path_, tensors, {{kState, json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)}});
  } catch (const Error& error) {
    fail("pare.pipeline.108", path_, "the checkpoint cannot be written, the one before stays: {}", error.what());
  }
}

PARE_NAMESPACE_END
