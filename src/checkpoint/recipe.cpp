#include "checkpoint/recipe.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <charconv>

#include "checkpoint/safetensors_format.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/text.hpp"

PARE_NAMESPACE_BEGIN

namespace checkpoint {

using nlohmann::json;

namespace {

// Grows when a reader of before would misunderstand the file; what it may leave out can be added without.
constexpr int kVersion = 2, kWithoutOptimizer = 1;

std::string graph_text(const Model& model, const std::string& file) {
  auto text = print(model.graph());
  try {
    if (print(parse_graph(text)) == text) return text;
  } catch (const Error& error) {
    fail("pare.checkpoint.135", file, "the graph has no text that can be read back: {}", error.what());
  }
  fail("pare.checkpoint.135", file, "the graph reads back differently from its text");
}

}  // namespace

std::string checksum(const std::string& recipe, const Tensors& tensors) {
  std::uint64_t hash = 14695981039346656037ULL;
  const auto add = [&](const void* from, std::size_t count) {
    const auto* bytes = static_cast<const unsigned char*>(from);
    for (std::size_t i = 0; i < count; ++i) hash = (hash ^ bytes[i]) * 1099511628211ULL;
  };
  add(recipe.data(), recipe.size());
  for (const auto& [name, tensor] : tensors) {
    const auto flat = tensor.detach().to(at::kCPU).contiguous();
    add(name.data(), name.size());
    add(flat.const_data_ptr(), flat.nbytes());
  }
  return fmt::format("fnv1a-{:016x}", hash);
}

json packing_json(const Packing& packing) {
  json result{{"kind", packing.kind}, {"sizes", packing.sizes},         {"rows", packing.rows},
              {"axis", packing.axis}, {"quant_min", packing.quant_min}, {"quant_max", packing.quant_max}};
  if (packing.transposed) result["swapped_with"] = packing.swapped_with;
  if (packing.scale.empty()) {
    result["scale"] = packing.scale_number;
    result["zero_point"] = packing.zero_number;
  } else {
    result["scale"] = packing.scale;
    result["zero_point"] = packing.zero_point;
  }
  return result;
}

Packing packing_from(const json& entry) {
  Packing packing;
  packing.kind = entry.at("kind").get<std::string>();
  packing.sizes = entry.at("sizes").get<std::vector<std::int64_t>>();
  packing.rows = entry.at("rows").get<std::vector<std::int64_t>>();
  packing.axis = entry.at("axis").get<std::int64_t>();
  packing.quant_min = entry.at("quant_min").get<std::int64_t>();
  packing.quant_max = entry.at("quant_max").get<std::int64_t>();
  if (entry.contains("swapped_with")) {
    packing.transposed = true;
    packing.swapped_with = entry["swapped_with"].get<std::int64_t>();
  }
  if (entry.at("scale").is_string()) {
    packing.scale = entry["scale"].get<std::string>();
    packing.zero_point = entry.at("zero_point").get<std::string>();
  } else {
    packing.scale_number = entry["scale"].get<double>();
    packing.zero_number = entry.at("zero_point").get<std::int64_t>();
  }
  return packing;
}

json weight_json(const Weight& weight) {
  json entry{{"parameter", weight.is_parameter}};
  if (weight.tensor.requires_grad()) entry["trained"] = true;
  if (!weight.aliases.empty()) entry["aliases"] = weight.aliases;
  for (const auto& step : weight.narrowings) entry["kept"].push_back({{"dim", step.dim}, {"indices", step.kept}});
  return entry;
}

Weight weight_from(const json& entry) {
  Weight weight;
  weight.is_parameter = entry.at("parameter").get<bool>();
  if (entry.contains("aliases")) weight.aliases = entry["aliases"].get<std::vector<std::string>>();
  if (entry.contains("kept"))
    for (const auto& step : entry["kept"])
      weight.narrowings.push_back(
          {step.at("dim").get<std::int64_t>(), step.at("indices").get<std::vector<std::int64_t>>()});
  return weight;
}

void broken(const std::string& file, std::string_view why) {
  fail("pare.checkpoint.133", file, "the recipe is broken: {}", why);
}

void check_version(const SafeTensors& file, const std::string& name) {
  const auto& metadata = file.metadata();
  const auto version = metadata.find(kFormat);
  if (version == metadata.end() || !metadata.contains(kRecipe))
    fail("pare.checkpoint.130", name, "a safetensors file, but none that save_checkpoint wrote");
  int number = 0;
  const auto& text = version->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 1)
    fail("pare.checkpoint.133", name, "'{}' is no version", printable(text));
  if (number > kVersion)
    fail("pare.checkpoint.131", name, "version {} of the format; this library reads up to {}", number, kVersion);
}

void check_whole(const SafeTensors& tensors, const std::string& file) {
  const auto& metadata = tensors.metadata();
  const auto known = metadata.find(kChecksum);
  if (known == metadata.end() || known->second != checksum(metadata.at(kRecipe), tensors.tensors()))
    fail("pare.checkpoint.132", file, "the checksum is wrong: the file was damaged or edited");
}

json model_json(const Model& model, bool pack, Tensors& tensors, const std::string& file) {
  const at::NoGradGuard no_grad;
  json recipe{{"graph", graph_text(model, file)}, {"notes", model.notes()}, {"can_train", model.can_train()}};
  auto& entries = recipe["weights"] = json::object();
  for (const auto& [name, weight] : model.weights()) {
    auto entry = weight_json(weight);
    const auto value = model.graph().weight(name);
    const auto packing = pack && value != kNoValue ? packing_of(model, value) : std::nullopt;
    tensors[name] = packing ? checkpoint::pack(model, value, *packing) : weight.tensor;
    if (packing) entry["packed"] = packing_json(*packing);
    entries[name] = std::move(entry);
  }
  return recipe;
}

void write_recipe(const std::string& path, const json& recipe, const Tensors& tensors,
                  std::map<std::string, std::string> metadata) {
  std::string text;
  try {
    text = recipe.dump(1);
  } catch (const json::exception&) {
    fail("pare.checkpoint.120", printable(path), "a name is not UTF-8");
  }
  metadata[kFormat] = std::to_string(recipe.contains("optimizer") ? kVersion : kWithoutOptimizer);
  metadata[kChecksum] = checksum(text, tensors);
  metadata[kRecipeChecksum] = checksum(text, {});
  metadata[kRecipe] = std::move(text);
  save_safetensors(path, tensors, metadata);
}

}  // namespace checkpoint

PARE_NAMESPACE_END
