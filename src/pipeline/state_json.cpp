#include "pipeline/state_json.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <filesystem>

#include "core/fingerprint.hpp"
#include "pare/checkpoint/checkpoint.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/text.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using Json = nlohmann::json;

constexpr int kStateVersion = 2;
constexpr auto kStateKey = "pipeline";

Json drop_json(const DropEstimate& drop) {
  return {json_of(drop.drop), json_of(drop.low), json_of(drop.high), drop.samples};
}

DropEstimate drop_of(const Json& json) {
  return {double_of(json.at(0)), double_of(json.at(1)), double_of(json.at(2)), json.at(3).get<std::int64_t>()};
}

[[noreturn]] void damaged(const std::string& path, std::string_view why) {
  fail("pare.pipeline.107", path, "this is no checkpoint of a pipeline, or a damaged one ({}): delete it to start anew",
       why);
}

}  // namespace

Json json_of(double value) { return std::isfinite(value) ? Json(value) : Json(fmt::format("{}", value)); }
double double_of(const Json& value) {
  return value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>();
}
Json json_of(const std::optional<double>& value) { return value ? json_of(*value) : Json(nullptr); }
std::optional<double> optional_of(const Json& value) {
  return value.is_null() ? std::nullopt : std::optional<double>(double_of(value));
}

Json json_of(const Report& report) {
  Json rows = Json::array(), stages = Json::array();
  for (const auto& row : report.rows()) {
    Json figures = Json::object();
    for (const auto& [name, value] : row.figures) figures[name] = json_of(value);
    rows.push_back({row.layer, row.op, row.pass, row.decision == Decision::Done, row.reason, figures});
  }
  for (const auto& stage : report.stages())
    stages.push_back({stage.pass, stage.kept, stage.reason, stage.seconds, json_of(stage.metric),
                      stage.weight_bytes ? Json(*stage.weight_bytes) : Json(nullptr)});
  return {{"rows", rows}, {"stages", stages}};
}

Report report_of(const Json& json) {
  Report report;
  for (const auto& row : json.at("rows")) {
    ReportRow one{row.at(0), row.at(1), row.at(2), row.at(3).get<bool>() ? Decision::Done : Decision::Declined,
                  row.at(4), {}};
    for (const auto& [name, value] : row.at(5).items()) one.figures[name] = double_of(value);
    report.add(std::move(one));
  }
  for (const auto& stage : json.at("stages")) {
    ReportStage one;
    one.pass = stage.at(0);
    one.kept = stage.at(1);
    one.reason = stage.at(2);
    one.seconds = stage.at(3);
    one.metric = optional_of(stage.at(4));
    if (!stage.at(5).is_null()) one.weight_bytes = stage.at(5).get<std::size_t>();
    report.add(std::move(one));
  }
  return report;
}

Json json_of(const Candidate& candidate) {
  const auto& latency = candidate.measured.latency;
  Json heads = Json::array(), plan = Json::array();
  for (const auto& head : candidate.heads)
    heads.push_back(
        {head.name, json_of(head.before), json_of(head.after), drop_json(head.drop), json_of(head.max_drop)});
  for (const auto& layer : candidate.plan.layers)
    plan.push_back({layer.name, layer.weights.count, layer.entries, json_of(layer.damage), layer.reason});
  return {{"name", candidate.name},
          {"metric", json_of(candidate.measured.metric)},
          {"weight_bytes", candidate.measured.weight_bytes},
          {"latency", {json_of(latency.median_ms), json_of(latency.p99_ms), latency.runs}},
          {"drop", drop_json(candidate.drop)},
          {"heads", heads},
          {"stored", candidate.stored},
          {"plan", plan}};
}

Candidate candidate_of(const Json& json) {
  Candidate candidate;
  candidate.name = json.at("name");
  candidate.measured.metric = optional_of(json.at("metric"));
  candidate.measured.weight_bytes = json.at("weight_bytes");
  const auto& latency = json.at("latency");
  candidate.measured.latency = {double_of(latency.at(0)), double_of(latency.at(1)), latency.at(2).get<std::size_t>()};
  candidate.drop = drop_of(json.at("drop"));
  for (const auto& head : json.at("heads"))
    candidate.heads.push_back(
        {head.at(0), double_of(head.at(1)), double_of(head.at(2)), drop_of(head.at(3)), optional_of(head.at(4))});
  candidate.stored = json.at("stored");
  for (const auto& layer : json.at("plan"))
    candidate.plan.layers.push_back(
        {layer.at(0), {layer.at(1).get<int>()}, layer.at(2).get<std::int64_t>(), double_of(layer.at(3)), layer.at(4)});
  return candidate;
}

void write_state(const std::string& path, const Model& model, const Json& facts) {
  auto state = facts;
  state["version"] = kStateVersion;
  CheckpointOptions options;
  options.pack = false;
  options.metadata[kStateKey] = state.dump(-1, ' ', true, Json::error_handler_t::replace);
  try {
    save_checkpoint(model, path, options);
  } catch (const Error& error) {
    fail("pare.pipeline.108", path, "the checkpoint cannot be written, the one before stays: {}", error.what());
  }
}

Json read_facts(const std::string& path, const std::string& fingerprint) {
  try {
    const SafeTensors file(path);
    const auto held = file.metadata().find(kStateKey);
    if (held == file.metadata().end()) damaged(path, "it holds no state");
    auto facts = Json::parse(held->second);
    if (const auto version = facts.at("version").get<int>(); version != kStateVersion)
      fail("pare.pipeline.107", path, "the checkpoint is of version {}, this library writes and reads {}: delete it",
           version, kStateVersion);
    if (facts.at("fingerprint") != fingerprint)
      fail("pare.pipeline.107", path,
           "the checkpoint is of another model, other data, passes or options, or another seed; give another folder or "
           "delete it");
    return facts;
  } catch (const Json::exception& error) {
    damaged(path, error.what());
  } catch (const Error& error) {
    if (error.id() == "pare.pipeline.107") throw;
    damaged(path, error.what());
  }
}

Model read_model_of(const std::string& path, const Model& original) {
  try {
    auto model = [&] {
      try {
        return load_checkpoint(path, original);
      } catch (const Error& error) {
        if (error.id() != "pare.checkpoint.134") throw;
        auto alone = load_checkpoint(path);  // a pass has added weights: it runs, and is not for committing
        alone.set_origin(original.origin());
        return alone;
      }
    }();
    model.eval();
    return model;
  } catch (const Error& error) {
    damaged(path, error.what());
  }
}

std::string fingerprint_of(const Model& model) {
  Fingerprint fingerprint;
  fingerprint.add(print(model.graph()));
  for (const auto& [path, weight] : model.weights()) {
    fingerprint.add(path);
    if (!weight.tensor.defined()) continue;
    const auto values = weight.tensor.detach().cpu().contiguous();
    fingerprint.add(values.const_data_ptr(), values.nbytes());
  }
  return fingerprint.text();
}

void make_folder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail("pare.pipeline.108", folder, "the checkpoint folder cannot be made: {}", error.message());
}

PARE_NAMESPACE_END
