#pragma once

#include <typeindex>
#include <utility>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What of a Model a pass can leave as it was, and what an analysis can depend on; combined with `|`.
enum class Aspect : unsigned char {
  Nothing = 0,
  Structure = 1,  ///< which nodes there are, what feeds what, the shapes of values and weights
  Ops = 2,        ///< which operator each node calls, and its constants
  Weights = 4,    ///< the numbers in the weight table
  Everything = 7,
};
constexpr Aspect operator|(Aspect a, Aspect b) noexcept {
  return static_cast<Aspect>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
constexpr Aspect operator&(Aspect a, Aspect b) noexcept {
  return static_cast<Aspect>(static_cast<unsigned>(a) & static_cast<unsigned>(b));
}

/// What a pass says is still true after it ran: analyses that depend on nothing else stay cached.
///
///     return Preserved::all();                        // edited nothing; checked
///     return Preserved::topology();                   // same wiring and shapes, other ops or weights
///     return Preserved::none().keep<ChannelGroups>();  // everything may differ, yet this analysis holds
class Preserved {
 public:
  /// The pass edited nothing. A pass that says so and did is refused (Error `pare.pass.104`).
  static Preserved all() { return Preserved(Aspect::Everything); }
  /// Anything may have changed.
  static Preserved none() { return Preserved(Aspect::Nothing); }
  /// Same nodes, wiring and shapes; ops, constants and weights may differ. Checked as `all()` is, likewise `graph()`.
  static Preserved topology() { return Preserved(Aspect::Structure); }
  /// Only numbers in the weight table differ: same graph, same shapes.
  static Preserved graph() { return Preserved(Aspect::Structure | Aspect::Ops); }

  /// Adds an analysis that survives although an aspect it depends on changed.
  template <class Analysis>
  Preserved&& keep() && {
    kept_.emplace_back(typeid(Analysis));
    return std::move(*this);
  }

  /// Whether an analysis of this type that depends on `aspects` survives.
  [[nodiscard]] bool survives(std::type_index analysis, Aspect aspects) const;
  [[nodiscard]] Aspect aspects() const noexcept { return aspects_; }
  [[nodiscard]] bool is_all() const noexcept { return aspects_ == Aspect::Everything; }

  /// What survives both: one pass after another.
  friend Preserved operator&(const Preserved& a, const Preserved& b);

 private:
  explicit Preserved(Aspect aspects) : aspects_(aspects) {}
  Aspect aspects_;
  std::vector<std::type_index> kept_;
};

PARE_NAMESPACE_END
