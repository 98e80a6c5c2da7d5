#include "checkpoint/read_model.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <set>

#include "checkpoint/recipe.hpp"
#include "checkpoint/safetensors_format.hpp"
#include "graph/check_foreign.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/rewriter.hpp"
#include "pare/graph/text.hpp"
#include "pare/graph/verify.hpp"

PARE_NAMESPACE_BEGIN

namespace checkpoint {

namespace {

// The weights as they are stored, each with its entry's facts; what stands behind `kOptimizerPrefix` is no weight.
Weights stored_weights(const nlohmann::json& entries, const SafeTensors& tensors, Unpacked as,
                       const std::string& file) {
  Weights weights;
  for (const auto& [path, entry] : entries.items()) {
    if (!tensors.contains(path)) broken(file, fmt::format("there is no tensor '{}'", printable(path)));
    auto weight = weight_from(entry);
    weight.tensor = tensors.at(path);
    weight.is_parameter = weight.is_parameter && as == Unpacked::Numbers;  // integers are not trained
    weights[path] = std::move(weight);
  }
  std::size_t others = 0;
  for (const auto& [name, tensor] : tensors.tensors()) others += name.starts_with(kOptimizerPrefix) ? 1 : 0;
  if (weights.size() + others != tensors.size()) broken(file, "there are tensors that it does not name");
  return weights;
}

at::Tensor vector_of(const Weights& weights, const std::string& path, const at::Tensor& otherwise,
                     const std::string& file) {
  if (path.empty()) return otherwise;
  const auto found = weights.find(path);
  if (found == weights.end()) broken(file, fmt::format("there is no tensor '{}'", printable(path)));
  return found->second.tensor;
}

// Has the fake-quantizes that read a weight read numbers that are made of its integers, so that it can stay what it is
// in the file: `to(float) * scale`, or `pare::dequantize` where two integers share a byte or there are zero points.
// Where the integers are read otherwise than the packing says, nothing is done.
bool read_as_integers(Model& model, const std::string& path, const Packing& packing, const at::Tensor& scale,
                      const at::Tensor& zero_point) {
  const auto value = model.graph().weight(path);
  if (value == kNoValue || packing.kind == "uint8") return false;
  const auto quantizers = quantizers_of(model.graph(), value);
  TensorType rows{at::kFloat, {}};
  for (const auto size : packing.rows) rows.sizes.emplace_back(size);
  for (const auto id : quantizers) {
    const auto& node = model.graph().node(id);
    if (!(model.graph().value(node.input(0)).type == rows)) return false;
  }
  if (quantizers.empty()) return false;

  Rewriter rewriter(model);
  const auto stored = model.weight(path);
  rewriter.set_weight(path, stored);
  const bool affine = zero_point.ne(0).any().item<bool>(), whole = packing.scale.empty();
  const bool dequantizes = affine || packing.kind == "int4";
  Operand factor(packing.scale_number), zero;
  if (!whole || dequantizes)
    factor = rewriter.add_weight(path + ":scale", whole ? scale.reshape({}) : along_rows(scale, packing));
  if (affine)
    zero = rewriter.add_weight(path + ":zero_point",
                               whole ? zero_point.reshape({}) : along_rows(zero_point, packing).contiguous());
  for (const auto id : quantizers) {
    const auto name = model.graph().node(id).name;
    NodeId numbers{};
    if (dequantizes) {
      numbers = rewriter.insert_before(id, "pare::dequantize", {value, factor, zero, Operand::Ints(rows.sizes)}, {rows},
                                       name + ".numbers");
    } else {
      const auto floats = rewriter.insert_before(id, "aten::to.dtype", {value, at::kFloat}, {rows}, name + ".float");
      numbers = rewriter.insert_before(id, whole ? "aten::mul.Scalar" : "aten::mul.Tensor",
                                       {model.graph().node(floats).output(), factor}, {rows}, name + ".scaled");
    }
    rewriter.set_operand(id, 0, model.graph().node(numbers).output());
  }
  return true;
}

// A packed weight, in place.
void unpack_weight(Model& model, const std::string& path, const Packing& packing, Unpacked as,
                   const std::string& file) {
  const auto& weights = model.weights();
  const auto scale = vector_of(weights, packing.scale, at::full({}, packing.scale_number, at::kFloat), file);
  const auto zero_point = vector_of(weights, packing.zero_point, at::full({}, packing.zero_number, at::kInt), file);
  const auto& stored = weights.find(path)->second.tensor;
  if (!fits(stored, packing, scale, zero_point))
    broken(file, fmt::format("'{}' is not packed as it says", printable(path)));
  if (as == Unpacked::Integers && read_as_integers(model, path, packing, scale, zero_point)) return;
  model.set_weight(path, unpack(stored, packing, scale, zero_point));
}

Model unchecked_model(const SafeTensors& tensors, const std::string& file, Unpacked as) {
  const auto recipe = nlohmann::json::parse(tensors.metadata().at(kRecipe));
  const auto& entries = recipe.at("weights");
  auto graph = parse_graph(recipe.at("graph").get<std::string>());
  Model model(std::move(graph), stored_weights(entries, tensors, as, file));
  for (const auto& [path, entry] : entries.items())
    if (entry.contains("packed")) unpack_weight(model, path, packing_from(entry["packed"]), as, file);
  for (const auto& note : recipe.value("notes", std::vector<std::string>{})) model.note(note);
  if (as == Unpacked::Numbers) {
    for (const auto& [path, entry] : entries.items())
      if (entry.value("trained", false) && model.weight(path).is_floating_point())
        model.set_weight(path, model.weight(path).clone().requires_grad_(true));
    model.set_can_train(recipe.value("can_train", true));
  } else {
    Rewriter(model).eliminate_dead();
    model.set_can_train(false);
  }
  verify(model);
  check_foreign(model);
  return model;
}

}  // namespace

Model read_model(const SafeTensors& tensors, const std::string& file, Unpacked as) {
  try {
    return unchecked_model(tensors, file, as);
  } catch (const nlohmann::json::exception& error) {
    broken(file, printable(error.what()));
  } catch (const Error& error) {
    if (error.id().starts_with("pare.checkpoint")) throw;
    broken(file, printable(error.what()));
  } catch (const c10::Error& error) {
    broken(file, printable(error.what_without_backtrace()));
  }
}

}  // namespace checkpoint

PARE_NAMESPACE_END
