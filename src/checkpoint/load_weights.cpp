#include <fmt/ranges.h>
#include <torch/torch.h>

#include <algorithm>
#include <limits>
#include <regex>
#include <set>

#include "checkpoint/safetensors_format.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN
namespace {

using checkpoint::printable;

std::regex compile_pattern(const std::string& pattern, const std::string& file) {
  try {
    return std::regex(pattern);
  } catch (const std::regex_error&) {
    fail("pare.checkpoint.114", file, "'{}' is not a regular expression", printable(pattern));
  }
}

std::vector<std::regex> compile_patterns(const std::vector<std::string>& patterns, const std::string& file) {
  std::vector<std::regex> result;
  for (const auto& pattern : patterns) result.push_back(compile_pattern(pattern, file));
  return result;
}

bool matches_any(const std::string& name, const std::vector<std::regex>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::regex& pattern) { return std::regex_match(name, pattern); });
}

// "a, b, c and 4 more"
std::string listed(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) text += (i == 0 ? "" : ", ") + printable(names[i]);
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

// Name in the module -> tensor of the file.
std::map<std::string, torch::Tensor> renamed(const SafeTensors& safe, const LoadOptions& options,
                                             const std::string& file) {
  std::vector<std::pair<std::regex, std::string>> rules;
  for (const auto& [pattern, replacement] : options.rename) {
    rules.emplace_back(compile_pattern(pattern, file), replacement);
  }
  std::map<std::string, torch::Tensor> result;
  for (const auto& [original, tensor] : safe.tensors()) {
    std::string name = original;
    for (const auto& [pattern, replacement] : rules) name = std::regex_replace(name, pattern, replacement);
    if (options.map) name = options.map(name);
    if (name.empty()) continue;
    if (!result.emplace(name, tensor).second) {
      fail("pare.checkpoint.113", file, "two tensors become '{}' after renaming", printable(name));
    }
  }
  return result;
}

double largest(c10::ScalarType floating) {
  if (floating == torch::kDouble) return std::numeric_limits<double>::max();
  if (floating == torch::kFloat) return std::numeric_limits<float>::max();
  if (floating == torch::kBFloat16) return std::numeric_limits<c10::BFloat16>::max();
  if (floating == torch::kHalf) return std::numeric_limits<c10::Half>::max();
  return 0;  // eight bits
}

// Whether no number of the tensor becomes another in this type, but for rounding.
bool fits_type(const torch::Tensor& source, c10::ScalarType type) {
  if (source.scalar_type() == type || source.is_complex()) return true;
  if (source.is_floating_point())
    return largest(type) >= largest(source.scalar_type()) ||
           source.isfinite().equal(source.to(type).to(source.scalar_type()).isfinite());
  const auto integers = source.to(torch::kLong);
  if (source.scalar_type() == torch::kUInt64 && integers.lt(0).any().item<bool>()) return false;
  return integers.to(type).to(torch::kLong).equal(integers);
}

void check_fits(const std::string& name, const torch::Tensor& target, const torch::Tensor& source,
                const std::string& file) {
  if (target.sizes() != source.sizes()) {
    fail("pare.checkpoint.112", file, "'{}' has shape [{}] in the file and [{}] in the module", printable(name),
         fmt::join(source.sizes(), ", "), fmt::join(target.sizes(), ", "));
  }
  if (target.is_floating_point() != source.is_floating_point() || target.is_complex() != source.is_complex()) {
    fail("pare.checkpoint.115", file, "'{}' is {} in the file and {} in the module", printable(name),
         c10::toString(source.scalar_type()), c10::toString(target.scalar_type()));
  }
  if (!fits_type(source, target.scalar_type())) {
    fail("pare.checkpoint.116", file, "'{}' holds {} numbers, some of which are beyond what the module's {} can hold",
         printable(name), c10::toString(source.scalar_type()), c10::toString(target.scalar_type()));
  }
}

}  // namespace

std::map<std::string, torch::Tensor> named_weights(const torch::nn::Module& module) {
  std::map<std::string, torch::Tensor> result;
  for (const auto& item : module.named_parameters()) result.emplace(item.key(), item.value());
  for (const auto& item : module.named_buffers()) result.emplace(item.key(), item.value());
  return result;
}

void load_weights(torch::nn::Module& module, const SafeTensors& safe, const LoadOptions& options) {
  const std::string file = printable(safe.name());
  const auto sources = renamed(safe, options, file);
  const auto targets = named_weights(module);
  const auto allow_missing = compile_patterns(options.allow_missing, file);
  const auto allow_extra = compile_patterns(options.allow_extra, file);

  std::vector<std::string> extra;
  std::set<const c10::TensorImpl*> covered;
  for (const auto& [name, source] : sources) {
    const auto target = targets.find(name);
    if (target == targets.end()) {
      if (!matches_any(name, allow_extra)) extra.push_back(name);
      continue;
    }
    check_fits(name, target->second, source, file);
    covered.insert(target->second.unsafeGetTensorImpl());
  }
  std::vector<std::string> missing;
  for (const auto& [name, target] : targets) {
    // One name is enough for a tensor that the module holds under several.
    if (covered.count(target.unsafeGetTensorImpl()) == 0 && !matches_any(name, allow_missing)) missing.push_back(name);
  }
  if (!missing.empty()) {
    fail("pare.checkpoint.110", file, "{} tensor(s) of the module are missing: {}{}", missing.size(), listed(missing),
         extra.empty() ? "" : "; the file has " + listed(extra) + " instead");
  }
  if (!extra.empty()) {
    fail("pare.checkpoint.111", file, "{} tensor(s) have no place in the module: {}", extra.size(), listed(extra));
  }

  torch::NoGradGuard no_grad;
  for (const auto& [name, source] : sources) {
    if (const auto target = targets.find(name); target != targets.end()) {
      torch::Tensor(target->second).copy_(source);
    }
  }
}

PARE_NAMESPACE_END
