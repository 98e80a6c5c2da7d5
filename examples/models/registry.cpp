#include "examples/models/registry.hpp"

#include <fmt/ranges.h>

#include <map>
#include <utility>

#include "examples/models/families.hpp"
#include "pare/core/error.hpp"

namespace models {
namespace {

constexpr const char* kDataDependent = "data_dependent";

const std::map<std::string, Bundle (*)()>& factories() {
  static const std::map<std::string, Bundle (*)()> table = [] {
    std::map<std::string, Bundle (*)()> all;
    add_convolutional(all);
    add_compact(all);
    add_sequence(all);
    return all;
  }();
  return table;
}

}  // namespace

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const auto& [name, factory] : factories()) {
    if (name != kDataDependent) result.push_back(name);
  }
  return result;
}

Bundle make(const std::string& name) {
  const auto found = factories().find(name);
  if (found == factories().end()) {
    pare::fail("pare.data.101", name, "no such model; known are {}", fmt::join(names(), ", "));
  }
  Bundle bundle = found->second();
  bundle.name = name;
  return bundle;
}

void settle(Bundle& bundle, int64_t batches, int64_t batch) {
  torch::NoGradGuard no_grad;
  const bool training = bundle.module->is_training();
  std::vector<std::pair<torch::nn::BatchNorm2dImpl*, std::optional<double>>> norms;
  for (auto& module : bundle.module->modules()) {
    if (auto* norm = module->as<torch::nn::BatchNorm2d>()) {
      norms.emplace_back(norm, norm->options.momentum());
      norm->reset_running_stats();
      norm->options.momentum(std::nullopt);
    }
  }
  if (norms.empty()) return;
  bundle.module->train();
  for (int64_t i = 0; i < batches; ++i) bundle.forward(bundle.example(batch));
  bundle.module->train(training);
  for (auto& [norm, momentum] : norms) {
    norm->options.momentum(momentum);
    norm->num_batches_tracked.zero_();
  }
}

}  // namespace models
