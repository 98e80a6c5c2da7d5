#include "examples/zoo/exports.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <filesystem>

#include "pare/checkpoint/checkpoint.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"
#include "pare/mcu/write_c.hpp"
#include "pare/onnx/save.hpp"

namespace zoo {

namespace {

constexpr std::int64_t kSamples = 461;  // of a file of samples

void write_samples(const std::string& path, const pare::Model& model, const pare::CompiledModel& compiled,
                   const std::vector<models::Tensors>& batches) {
  std::map<std::string, torch::Tensor> tensors;
  models::Tensors inputs;
  for (std::size_t i = 0; i < batches.at(0).size(); ++i) {
    models::Tensors parts;
    for (const auto& batch : batches) parts.push_back(batch[i]);
    auto all = torch::cat(parts);
    inputs.push_back(all.narrow(0, 0, std::min(kSamples, all.size(0))).contiguous());
    tensors[fmt::format("in.{}", model.graph().value(model.graph().inputs()[i]).name)] = inputs.back();
  }
  const auto outputs = compiled.run(inputs);
  for (std::size_t i = 0; i < outputs.size(); ++i)
    tensors[i == 0 ? std::string("out.output") : fmt::format("out.output_{}", i)] = outputs[i];
  pare::save_safetensors(path, tensors);
}

std::string written(const std::string& path) {
  return fmt::format("wrote {}: {} bytes", path, std::filesystem::file_size(path));
}

}  // namespace

std::vector<std::string> write_exports(const Exports& exports, const std::string& name, const pare::Model& model,
                                       const pare::CompiledModel& compiled, const std::vector<models::Tensors>& batches,
                                       const std::map<std::string, std::string>& metadata) {
  std::vector<std::string> lines;
  if (!exports.onnx.empty()) {
    pare::onnx::save(model, exports.onnx, {.metadata = metadata});
    lines.push_back(written(exports.onnx));
  }
  if (!exports.samples.empty()) {
    write_samples(exports.samples, model, compiled, batches);
    lines.push_back(written(exports.samples));
  }
  if (!exports.save.empty()) {
    pare::save_checkpoint(model, exports.save, {.metadata = metadata});
    lines.push_back(written(exports.save));
  }
  if (!exports.c_folder.empty()) {
    std::error_code error;
    const bool made = std::filesystem::create_directories(exports.c_folder, error);
    const auto path = (std::filesystem::path(exports.c_folder) / (name + ".c")).string();
    pare::mcu::CSource source;
    try {
      source = pare::mcu::write_c(model, path);
    } catch (...) {
      if (made) std::filesystem::remove(exports.c_folder, error);
      throw;
    }
    lines.push_back(fmt::format("wrote {}: {} bytes of constants, {} of activations, {} multiply-accumulates", path,
                                source.flash_bytes, source.arena_bytes, source.macs));
  }
  return lines;
}

}  // namespace zoo
