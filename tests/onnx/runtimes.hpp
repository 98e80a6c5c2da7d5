#pragma once

#include <fmt/format.h>
#include <torch/torch.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "pare/capture/capture.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/graph/model.hpp"
#include "pare/onnx/save.hpp"
#include "tests/support/scratch_folder.hpp"

/// The Python of the environment that holds ONNX Runtime and OpenVINO (PARE_PEERS_VENV, or `.venv-peers`, which
/// `benchmarks/compare_peers.py --setup-only` makes), or nothing, said on stderr.
inline std::optional<std::string> peers_python() {
  const char* given = std::getenv("PARE_PEERS_VENV");
  const auto root = given != nullptr && *given != '\0' ? std::filesystem::path(given)
                                                       : std::filesystem::path(PARE_SOURCE_DIR) / ".venv-peers";
  const auto python = root / "bin" / "python";
  const auto command = fmt::format("'{}' -c 'import onnx, onnxruntime, safetensors' 2>/dev/null", python.string());
  if (std::filesystem::exists(python) && std::system(command.c_str()) == 0) return python.string();
  std::cerr << "skipped: no ONNX Runtime in " << root.string()
            << " (benchmarks/compare_peers.py --setup-only makes it)\n";
  return std::nullopt;
}

/// Inputs and pare's outputs, as tests/onnx/run_models.py reads them.
inline void write_samples(const std::string& path, const pare::Model& model, const std::vector<at::Tensor>& inputs,
                          const std::vector<at::Tensor>& outputs) {
  std::map<std::string, at::Tensor> tensors;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    tensors[fmt::format("in.{}", model.graph().value(model.graph().inputs()[i]).name)] = inputs[i];
  for (std::size_t i = 0; i < outputs.size(); ++i)
    tensors[i == 0 ? std::string("out.output") : fmt::format("out.output_{}", i)] = outputs[i];
  pare::save_safetensors(path, tensors);
}

/// A row as a line of a table: file, bytes, then for each runtime difference, SQNR, changed predictions.
inline std::string described(const nlohmann::json& row) {
  auto line = fmt::format("| {} | {} |", row["model"].get<std::string>(), row["bytes"].get<std::int64_t>());
  for (const auto* runtime : {"onnxruntime", "openvino"}) {
    if (!row.contains(runtime) || row[runtime].contains("error")) {
      line += " - | - | - |";
      continue;
    }
    const auto& result = row[runtime];
    line += fmt::format(" {:.1e} | {:.1f} | {} of {} |", result["relative_difference"].get<double>(),
                        result["sqnr_db"].get<double>(), result["flips"].get<int>(), result["samples"].get<int>());
    if (result.contains("integer_layers"))
      line += fmt::format(" {} of {} |", result["integer_layers"].get<int>(),
                          result["integer_layers"].get<int>() + result["float_layers"].get<int>());
  }
  return line;
}

/// One row for each model; empty where the script failed, which it says on stderr.
inline nlohmann::json run_models(const std::string& python, const std::vector<std::string>& files,
                                 const std::string& folder) {
  auto command =
      "'" + python + "' '" + PARE_SOURCE_DIR + "/tests/onnx/run_models.py' --json '" + folder + "/rows.json'";
  for (const auto& file : files) command += " '" + file + ".onnx' '" + file + ".safetensors'";
  command += " > /dev/null";
  if (std::system(command.c_str()) != 0) return nlohmann::json::array();
  std::ifstream stream(folder + "/rows.json");
  auto rows = nlohmann::json::parse(stream);
  for (const auto& row : rows) std::cerr << described(row) << '\n';
  return rows;
}

/// Largest relative difference of ONNX Runtime from a Model's outputs; 1 where the file is not valid or does not run.
inline double difference(const std::string& python, const pare::Model& model, const std::vector<at::Tensor>& inputs,
                         const std::vector<at::Tensor>& outputs, const pare::onnx::SaveOptions& options = {}) {
  const ScratchFolder folder;
  pare::onnx::save(model, folder.file("net.onnx"), options);
  write_samples(folder.file("net.safetensors"), model, inputs, outputs);
  const auto rows = run_models(python, {folder.file("net")}, folder.path().string());
  if (rows.size() != 1 || rows[0]["onnxruntime"].contains("error")) return 1;
  return rows[0]["onnxruntime"]["relative_difference"].get<double>();
}

/// The same from a captured forward at other inputs than the captured ones.
inline double difference(const std::string& python, const pare::FlatForward& forward,
                         const std::vector<at::Tensor>& example, const std::vector<at::Tensor>& inputs,
                         const pare::CaptureOptions& options = {}) {
  const torch::NoGradGuard no_grad;
  torch::nn::Module module;
  return difference(python, pare::capture_forward(module, forward, example, options), inputs, forward(inputs));
}
