#include "pare/checkpoint/checkpoint.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <charconv>

#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "checkpoint/packing.hpp"
#include "checkpoint/safetensors_format.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/rewriter.hpp"
#include "pare/graph/text.hpp"
#include "pare/graph/verify.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using checkpoint::Packing;
using checkpoint::printable;
using nlohmann::json;
using Tensors = std::map<std::string, at::Tensor>;

/// Grows when a reader of before would misunderstand the file; what it may leave out can be added without.
constexpr int kVersion = 1;
constexpr const char *kRecipe = "pare.recipe", *kFormat = "pare.version", *kChecksum = "pare.checksum";

// FNV-1a over the recipe and every tensor: finds accidents, not forgeries.
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

std::string graph_text(const Model& model, const std::string& file) {
  auto text = print(model.graph());
  try {
    if (print(parse_graph(text)) == text) return text;
  } catch (const Error& error) {
    fail("pare.checkpoint.135", file, "the graph has no text that can be read back: {}", error.what());
  }
  fail("pare.checkpoint.135", file, "the graph reads back differently from its text");
}

[[noreturn]] void broken(const std::string& file, std::string_view why) {
  fail("pare.checkpoint.133", file, "the recipe is broken: {}", why);
}

// The weights, each from its tensor and its entry; scales first, since others are made with them.
Weights weights_from(const json& entries, const SafeTensors& tensors, const std::string& file) {
  Weights weights;
  std::vector<std::string> packed;
  std::set<std::string> used;
  for (const auto& [path, entry] : entries.items()) {
    auto weight = weight_from(entry);
    if (!tensors.contains(path)) broken(file, fmt::format("there is no tensor '{}'", printable(path)));
    used.insert(path);
    weight.tensor = tensors.at(path);
    if (entry.contains("packed")) packed.push_back(path);
    weights[path] = std::move(weight);
  }
  if (used.size() != tensors.size()) broken(file, "there are tensors that it does not name");
  for (const auto& path : packed) {
    const auto packing = packing_from(entries[path]["packed"]);
    const auto vector = [&](const std::string& name, const at::Tensor& otherwise) {
      if (name.empty()) return otherwise;
      const auto found = weights.find(name);
      if (found == weights.end()) broken(file, fmt::format("there is no tensor '{}'", printable(name)));
      return found->second.tensor;
    };
    auto& tensor = weights[path].tensor;
    tensor = checkpoint::unpack(tensor, packing, vector(packing.scale, at::full({}, packing.scale_number, at::kFloat)),
                                vector(packing.zero_point, at::full({}, packing.zero_number, at::kInt)));
    if (!tensor.defined()) broken(file, fmt::format("'{}' is not packed as it says", printable(path)));
  }
  return weights;
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

Model model_from(const SafeTensors& tensors, const std::string& file) {
  const auto& metadata = tensors.metadata();
  const auto& text = metadata.at(kRecipe);
  const auto known = metadata.find(kChecksum);
  if (known == metadata.end() || known->second != checksum(text, tensors.tensors()))
    fail("pare.checkpoint.132", file, "the checksum is wrong: the file was damaged or edited");
  try {
    const auto recipe = json::parse(text);
    auto graph = parse_graph(recipe.at("graph").get<std::string>());
    Model model(std::move(graph), weights_from(recipe.at("weights"), tensors, file));
    for (const auto& note : recipe.value("notes", std::vector<std::string>{})) model.note(note);
    model.set_can_train(recipe.value("can_train", true));
    verify(model);
    return model;
  } catch (const json::exception& error) {
    broken(file, printable(error.what()));
  } catch (const Error& error) {
    if (error.id().starts_with("pare.checkpoint")) throw;
    broken(file, printable(error.what()));
  } catch (const c10::Error& error) {
    broken(file, printable(error.what_without_backtrace()));
  }
}

// The shape that a weight of the captured module had before anything was taken from it.
void check_origin(const Model& model, const Model& captured, const std::string& file) {
  for (const auto& [path, weight] : model.weights()) {
    const auto found = captured.weights().find(path);
    if (found == captured.weights().end()) {
      if (weight.is_parameter)
        fail("pare.checkpoint.134", file, "the module has no '{}': it is not the one this was made from",
             printable(path));
      continue;
    }
    auto sizes = found->second.tensor.sizes().vec();
    bool fits = true;
    for (const auto& step : weight.narrowings) {
      const auto dim = static_cast<std::size_t>(step.dim);
      fits = fits && step.dim >= 0 && dim < sizes.size() && !step.kept.empty();
      for (const auto kept : step.kept) fits = fits && kept >= 0 && kept < sizes[dim];
      if (!fits) break;
      sizes[dim] = static_cast<std::int64_t>(step.kept.size());
    }
    if (!fits || weight.tensor.sizes() != at::IntArrayRef(sizes))
      fail("pare.checkpoint.134", file, "'{}' is [{}] in the module: it is not the one this was made from",
           printable(path), fmt::join(found->second.tensor.sizes(), ", "));
  }
}

// Values of the file's graph as the captured graph numbers them; nothing for a value that it has not.
std::optional<ValueId> value_in(const Graph& to, const Graph& from, ValueId id) {
  if (id == kNoValue) return id;
  const auto& value = from.value(id);
  if (value.kind == ValueKind::Weight) {
    const auto found = to.weight(value.name);
    return found == kNoValue ? std::nullopt : std::optional(found);
  }
  if (value.kind == ValueKind::Input)
    return value.position < to.inputs().size() ? std::optional(to.inputs()[value.position]) : std::nullopt;
  const auto node = to.find(from.node(value.producer).name);
  if (node == kNoNode || value.position >= to.node(node).outputs.size()) return std::nullopt;
  return to.node(node).outputs[value.position];
}

// The captured graph with the operands and sizes of the file's: the same calls under the ids that `commit` follows.
// Nothing where calls were added or taken out; such a Model runs, and `commit` says what it cannot write back.
std::optional<Graph> under_ids_of(const Model& captured, const Graph& from) {
  if (captured.graph().nodes().size() != from.nodes().size() || captured.graph().dims() != from.dims())
    return std::nullopt;
  Model model = captured;
  Rewriter rewriter(model);
  for (const auto id : from.nodes()) {
    const auto& node = from.node(id);
    const auto at = model.graph().find(node.name);
    if (at == kNoNode || !(model.graph().node(at).op == node.op) ||
        model.graph().node(at).outputs.size() != node.outputs.size())
      return std::nullopt;
    for (std::size_t i = 0; i < node.operands.size(); ++i) {
      auto operand = node.operands[i];
      bool known = true;
      operand.each_value([&](ValueId& value) {
        const auto own = value_in(model.graph(), from, value);
        known = known && own;
        if (own) value = *own;
      });
      if (!known) return std::nullopt;
      rewriter.set_operand(at, i, std::move(operand));
    }
    for (std::size_t i = 0; i < node.outputs.size(); ++i)
      rewriter.set_type(model.graph().node(at).outputs[i], from.value(node.outputs[i]).type);
  }
  for (std::size_t i = 0; i < from.value_count(); ++i) {
    const auto& value = from.value(ValueId{static_cast<std::uint32_t>(i)});
    if (value.kind != ValueKind::Weight) continue;
    const auto own = model.graph().weight(value.name);
    if (own == kNoValue) return std::nullopt;
    rewriter.set_type(own, value.type);
  }
  return model.graph();
}

}  // namespace

void save_checkpoint(const Model& model, const std::string& path, const CheckpointOptions& options) {
  const at::NoGradGuard no_grad;
  const auto file = printable(path);
  json recipe{{"graph", graph_text(model, file)}, {"notes", model.notes()}, {"can_train", model.can_train()}};
  Tensors tensors;
  auto& entries = recipe["weights"] = json::object();
  for (const auto& [name, weight] : model.weights()) {
    auto entry = weight_json(weight);
    const auto value = model.graph().weight(name);
    const auto packing = options.pack && value != kNoValue ? checkpoint::packing_of(model, value) : std::nullopt;
    tensors[name] = packing ? checkpoint::pack(model, value, *packing) : weight.tensor;
    if (packing) entry["packed"] = packing_json(*packing);
    entries[name] = std::move(entry);
  }
  auto metadata = options.metadata;
  try {
    metadata[kRecipe] = recipe.dump(1);
  } catch (const json::exception&) {
    fail("pare.checkpoint.120", file, "a name is not UTF-8");
  }
  metadata[kFormat] = std::to_string(kVersion);
  metadata[kChecksum] = checksum(metadata[kRecipe], tensors);
  save_safetensors(path, tensors, metadata);
}

Model load_checkpoint(const std::string& path) {
  const SafeTensors tensors(path);
  const auto file = printable(path);
  check_version(tensors, file);
  return model_from(tensors, file);
}

Model load_checkpoint(const std::string& path, const Model& captured) {
  auto model = load_checkpoint(path);
  check_origin(model, captured, printable(path));
  if (auto graph = under_ids_of(captured, model.graph())) {
    Model own(std::move(*graph), model.weights());
    for (const auto& note : model.notes()) own.note(note);
    own.set_can_train(model.can_train());
    verify(own);
    model = std::move(own);
  }
  model.set_origin(captured.origin());
  return model;
}

PARE_NAMESPACE_END
