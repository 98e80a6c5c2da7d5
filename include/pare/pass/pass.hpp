#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include "pare/graph/model.hpp"
#include "pare/pass/preserved.hpp"

PARE_NAMESPACE_BEGIN

class Context;

/// A pass is any type with `Preserved run(Model&, Context&)`: nothing to inherit, nothing to register.
///
/// Optional members: `name()` or `static constexpr std::string_view kName` (default: the type's name), and
/// `void validate() const`, called when the pass is added, so that wrong options fail before hours of work.
template <class P>
concept PassType = requires(P& pass, Model& model, Context& context) {
  { pass.run(model, context) } -> std::same_as<Preserved>;
};

/// Says in our own words what is wrong with a type that is not a pass.
template <class P>
consteval void check_pass() {
  constexpr bool kRuns = requires(P & pass, Model & model, Context & context) { pass.run(model, context); };
  static_assert(kRuns,
                "pare: this type is not a pass: it needs a public member `pare::Preserved run(pare::Model&, "
                "pare::Context&)`");
  if constexpr (kRuns)
    static_assert(PassType<P>,
                  "pare: run() of a pass must return pare::Preserved: what is still true of the model after it ran");
  static_assert(std::move_constructible<P>, "pare: a pass must be movable: it is kept by value");
}

/// A readable name from a type's: `pare::v0::Quantizer<...>` becomes `Quantizer`.
[[nodiscard]] std::string pass_name(const std::type_info& type);

/// A pass of any type, behind one type. Copies share the pass.
class AnyPass {
 public:
  template <class P>
  requires(!std::same_as<std::remove_cvref_t<P>, AnyPass>)
      AnyPass(P&& pass) {  // NOLINT(google-explicit-constructor): a pass is a pass
    using Kept = std::remove_cvref_t<P>;
    check_pass<Kept>();
    if constexpr (PassType<Kept>) {  // else the assertion above has spoken
      if constexpr (requires { pass.validate(); }) pass.validate();
      name_ = name_of(pass);
      run_ = [kept = std::make_shared<Kept>(std::forward<P>(pass))](Model& model, Context& context) {
        return kept->run(model, context);
      };
    }
  }

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  Preserved run(Model& model, Context& context) const { return run_(model, context); }

 private:
  template <class P>
  static std::string name_of(const P& pass) {
    if constexpr (requires {
                    { pass.name() } -> std::convertible_to<std::string>;
                  }) {
      return pass.name();
    } else if constexpr (requires { std::string(P::kName); }) {
      return std::string(P::kName);
    } else {
      return pass_name(typeid(P));
    }
  }

  std::string name_;
  std::function<Preserved(Model&, Context&)> run_;
};

PARE_NAMESPACE_END
