#include "checkpoint/optimizer_record.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cmath>
#include <deque>
#include <limits>
#include <optional>

#include "checkpoint/optimizer_kind.hpp"
#include "checkpoint/safetensors_format.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace checkpoint {

namespace {

using nlohmann::json;

/// Writes fields: numbers into an entry, tensors beside it under their own names.
struct FieldWriter {
  json& entry;
  Tensors& tensors;
  std::string prefix;

  void operator()(const char* name, bool value) const { entry[name] = value; }
  void operator()(const char* name, std::int64_t value) const { entry[name] = value; }
  void operator()(const char* name, double value) const {  // JSON has no name for what is not finite
    entry[name] = std::isfinite(value) ? json(value) : json(fmt::format("{}", value));
  }
  template <class T>
  void operator()(const char* name, const std::optional<T>& value) const {
    if (value) (*this)(name, *value);
  }
  void operator()(const char* name, const std::string& value) const { entry[name] = value; }
  void operator()(const char* name, const at::Tensor& value) const {
    if (!value.defined()) return;
    entry[name] = "tensor";
    tensors[prefix + name] = value;
  }
  template <class Sequence>
  requires std::same_as<typename Sequence::value_type, at::Tensor>
  void operator()(const char* name, const Sequence& values) const {
    entry[name] = values.size();
    for (std::size_t i = 0; i < values.size(); ++i) tensors[fmt::format("{}{}.{}", prefix, name, i)] = values[i];
  }
};

/// Reads them. Sizes are compared with those that a tensor of that name has.
struct FieldReader {
  const json& entry;
  const SafeTensors& tensors;
  std::string prefix;
  const at::Tensor& parameter;  // the state's
  std::int64_t all;             // numbers that the optimizer trains: LBFGS's vectors have as many
  const std::string& file;

  void operator()(const char* name, bool& value) const { value = entry.at(name).get<bool>(); }
  void operator()(const char* name, std::int64_t& value) const { value = entry.at(name).get<std::int64_t>(); }
  void operator()(const char* name, double& value) const {
    const auto& field = entry.at(name);
    value = field.is_string() ? std::strtod(field.get_ref<const std::string&>().c_str(), nullptr) : field.get<double>();
  }
  void operator()(const char* name, std::string& value) const { value = entry.at(name).get<std::string>(); }
  template <class T>
  void operator()(const char* name, std::optional<T>& value) const {
    value.reset();
    if (entry.contains(name)) (*this)(name, value.emplace());
  }
  void operator()(const char* name, at::Tensor& value) const {
    value = entry.contains(name) ? read(name, name) : at::Tensor();
  }
  template <class Sequence>
  requires std::same_as<typename Sequence::value_type, at::Tensor>
  void operator()(const char* name, Sequence& values) const {
    values.clear();
    const auto count = entry.at(name).get<std::size_t>();
    for (std::size_t i = 0; i < count; ++i) values.push_back(read(name, fmt::format("{}.{}", name, i)));
  }

  at::Tensor read(std::string_view field, const std::string& name) const {
    if (!tensors.contains(prefix + name))
      broken(file, fmt::format("there is no tensor '{}'", printable(prefix + name)));
    const auto tensor = tensors.at(prefix + name);
    const bool vector = field == "d" || field == "prev_flat_grad" || field == "old_dirs" || field == "old_stps";
    const bool number = field == "H_diag" || field == "ro";
    const bool fits = vector   ? tensor.dim() == 1 && tensor.numel() == all
                      : number ? tensor.numel() == 1
                               : tensor.sizes() == parameter.sizes();
    // LBFGS begins with the integer 1.
    if (!fits || !(tensor.is_floating_point() || field == "H_diag"))
      fail("pare.checkpoint.138", file, "'{}' is [{}]: the optimizer's parameter has another shape",
           printable(prefix + name), fmt::join(tensor.sizes(), ", "));
    return tensor.to(parameter.device()).clone();
  }
};

std::string path_of(const at::Tensor& parameter, const ParameterPaths& paths, const std::string& file) {
  const auto found = paths.find(parameter.unsafeGetTensorImpl());
  if (found == paths.end())
    fail("pare.checkpoint.138", file, "the optimizer trains a tensor of shape [{}] that is not the model's",
         fmt::join(parameter.sizes(), ", "));
  return found->second;
}

std::int64_t trained_numbers(const torch::optim::Optimizer& optimizer) {
  std::int64_t count = 0;
  for (const auto& group : optimizer.param_groups())
    for (const auto& parameter : group.params()) count += parameter.numel();
  return count;
}

// What an optimizer will be, made before anything is changed.
struct NextOptimizer {
  std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> options;
  std::vector<std::pair<void*, std::unique_ptr<torch::optim::OptimizerParamState>>> states;
};

template <class Kind>
NextOptimizer read_as(const json& record, const SafeTensors& tensors, const ParameterPaths& paths,
                      const torch::optim::Optimizer& optimizer, const std::string& file) {
  const auto& groups = record.at("groups");
  if (groups.size() != optimizer.param_groups().size())
    fail("pare.checkpoint.138", file, "the optimizer has {} parameter groups; in the file it has {}",
         optimizer.param_groups().size(), groups.size());
  NextOptimizer next;
  const auto all = trained_numbers(optimizer);
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const auto& group = optimizer.param_groups()[i];
    std::vector<std::string> names;
    for (const auto& parameter : group.params()) names.push_back(path_of(parameter, paths, file));
    const auto known = groups[i].at("parameters").get<std::vector<std::string>>();
    for (std::size_t p = 0; p < std::max(names.size(), known.size()); ++p)
      if (p >= names.size() || p >= known.size() || names[p] != known[p])
        fail("pare.checkpoint.138", file, "parameter {} of group {} is '{}' in the file and '{}' in the optimizer", p,
             i, printable(p < known.size() ? known[p] : "nothing"), printable(p < names.size() ? names[p] : "nothing"));
    auto options =
        std::make_unique<typename Kind::Options>(static_cast<const typename Kind::Options&>(group.options()));
    each_field(*options, FieldReader{groups[i].at("options"), tensors, {}, {}, all, file});
    next.options.push_back(std::move(options));
    for (std::size_t p = 0; p < names.size(); ++p) {
      if (!record.at("state").contains(names[p])) continue;
      auto state = std::make_unique<typename Kind::State>();
      each_field(*state, FieldReader{record["state"][names[p]], tensors,
                                     fmt::format("{}{}/", kOptimizerPrefix, names[p]), group.params()[p], all, file});
      next.states.emplace_back(group.params()[p].unsafeGetTensorImpl(), std::move(state));
    }
  }
  if (next.states.size() != record.at("state").size())
    broken(file, "there is state of parameters that are in no group");
  return next;
}

}  // namespace

json optimizer_json(const torch::optim::Optimizer& optimizer, const ParameterPaths& paths, Tensors& tensors,
                    const std::string& file) {
  json record;
  const auto write = [&](const auto& kind) {
    using Kind = std::remove_cvref_t<decltype(kind)>;
    record = {{"kind", kind.name}, {"groups", json::array()}, {"state", json::object()}};
    for (const auto& group : optimizer.param_groups()) {
      json options = json::object(), names = json::array();
      auto copy = static_cast<const typename Kind::Options&>(group.options());
      each_field(copy, FieldWriter{options, tensors, {}});
      for (const auto& parameter : group.params()) {
        const auto path = path_of(parameter, paths, file);
        names.push_back(path);
        const auto found = optimizer.state().find(parameter.unsafeGetTensorImpl());
        if (found == optimizer.state().end()) continue;
        const auto* state = dynamic_cast<const typename Kind::State*>(found->second.get());
        if (!state) fail("pare.checkpoint.136", file, "the state of '{}' is of a kind of its own", printable(path));
        auto fields = *state;
        each_field(fields, FieldWriter{record["state"][path] = json::object(), tensors,
                                       fmt::format("{}{}/", kOptimizerPrefix, path)});
      }
      record["groups"].push_back({{"options", std::move(options)}, {"parameters", std::move(names)}});
    }
  };
  if (!with_kind(optimizer, write))
    fail("pare.checkpoint.136", file, "an optimizer that is not one of LibTorch's has no place in a checkpoint");
  return record;
}

void read_optimizer(const json& record, const SafeTensors& tensors, const ParameterPaths& paths,
                    torch::optim::Optimizer& optimizer, const std::string& file) {
  const auto stored = record.at("kind").get<std::string>();
  NextOptimizer next;
  const auto read = [&](const auto& kind) {
    if (stored != kind.name)
      fail("pare.checkpoint.137", file, "the file has the state of {}; the optimizer is {}", printable(stored),
           kind.name);
    next = read_as<std::remove_cvref_t<decltype(kind)>>(record, tensors, paths, optimizer, file);
  };
  if (!with_kind(optimizer, read))
    fail("pare.checkpoint.137", file, "the file has the state of {}; the optimizer is none of LibTorch's",
         printable(stored));
  for (std::size_t i = 0; i < next.options.size(); ++i)
    optimizer.param_groups()[i].set_options(std::move(next.options[i]));
  optimizer.state().clear();
  for (auto& [parameter, state] : next.states) optimizer.state()[parameter] = std::move(state);
}

}  // namespace checkpoint

PARE_NAMESPACE_END
