#pragma once

#include <concepts>
#include <memory>
#include <type_traits>

#include "pare/version.hpp"

namespace torch::nn {
class Module;
}

PARE_NAMESPACE_BEGIN

struct CommitOptions;

/// The live module that a Model is to be committed to one day, by reference: a module, a holder or a `shared_ptr`,
/// which must outlive this. For passes that are to leave alone what its own forward has written in.
///
///     pare::Pruner{.macs = 50_pct, .commit_to = net}
class LiveModule {
 public:
  /// None.
  LiveModule() = default;
  template <class Net>
  requires(!std::same_as<std::remove_cvref_t<Net>, LiveModule>)
      LiveModule(Net& net)  // NOLINT(google-explicit-constructor): a net is a live module
      : module_(address_of(net)) {}
  /// @param options as they will be given to `commit`: another forward, another example
  template <class Net>
  LiveModule(Net& net, const CommitOptions& options)
      : module_(address_of(net)), options_(std::make_shared<const CommitOptions>(options)) {}

  [[nodiscard]] explicit operator bool() const noexcept { return module_ != nullptr; }
  /// The module, or null.
  [[nodiscard]] torch::nn::Module* module() const noexcept { return module_; }
  /// How it will be committed to; null: with defaults.
  [[nodiscard]] const CommitOptions* options() const noexcept { return options_.get(); }

 private:
  template <class Net>
  static torch::nn::Module* address_of(Net& net) {
    if constexpr (std::is_base_of_v<torch::nn::Module, Net>) {
      return &net;
    } else {
      return &*net;
    }
  }

  torch::nn::Module* module_ = nullptr;
  std::shared_ptr<const CommitOptions> options_;
};

PARE_NAMESPACE_END
