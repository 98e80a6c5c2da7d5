#pragma once

#include <concepts>
#include <map>
#include <memory>
#include <typeindex>
#include <utility>
#include <vector>

#include "pare/core/error.hpp"
#include "pare/graph/model.hpp"
#include "pare/pass/preserved.hpp"

PARE_NAMESPACE_BEGIN

class Analyses;

/// Any type constructible from `const Model&`, or from `(const Model&, Analyses&)` to build on other analyses.
///
/// It may say what it depends on, so that it outlives passes which leave that alone:
/// `static constexpr auto kDependsOn = Aspect::Structure;` — without it, everything.
template <class T>
concept Analysis = std::constructible_from<T, const Model&> || std::constructible_from<T, const Model&, Analyses&>;

/// Analyses of one Model: asking computes and caches, `Preserved` says what survives a pass.
///
/// Not for use from several threads at once.
class Analyses {
 public:
  explicit Analyses(const Model& model) : model_(&model) {}
  Analyses(const Analyses&) = delete;
  Analyses& operator=(const Analyses&) = delete;

  /// The analysis, computed when it is not cached. The reference holds until the analysis is invalidated.
  /// @throws Error `pare.pass.106` when analyses ask for each other in a circle.
  template <class A>
  const A& get() {
    static_assert(Analysis<A>,
                  "pare: an analysis must be constructible from `const pare::Model&` or from "
                  "`(const pare::Model&, pare::Analyses&)`");
    const std::type_index type = typeid(A);
    for (auto& pending : pending_) pending.asked.push_back(type);
    if (const auto found = entries_.find(type); found != entries_.end()) {
      for (auto& pending : pending_)
        pending.asked.insert(pending.asked.end(), found->second.built_on.begin(), found->second.built_on.end());
      return *static_cast<const A*>(found->second.analysis.get());
    }
    const Pending scope(*this, type);
    auto analysis = make<A>();
    const auto* result = analysis.get();
    entries_.emplace(type, Entry{std::move(analysis), aspects<A>(), std::move(pending_.back().asked)});
    return *result;
  }
  /// The analysis when it is cached, else null.
  template <class A>
  [[nodiscard]] const A* cached() const {
    const auto found = entries_.find(typeid(A));
    return found == entries_.end() ? nullptr : static_cast<const A*>(found->second.analysis.get());
  }

  /// Drops what did not survive, and what was built on it.
  void invalidate(const Preserved& preserved);
  void clear() noexcept { entries_.clear(); }
  [[nodiscard]] const Model& model() const noexcept { return *model_; }

 private:
  struct Entry {
    std::shared_ptr<const void> analysis;
    Aspect aspects;
    std::vector<std::type_index> built_on;  // all of them, not only the direct ones
  };
  struct Request {
    std::type_index type;
    std::vector<std::type_index> asked;
  };
  // An analysis being computed, for as long as it is.
  struct Pending {
    Pending(Analyses& owner, std::type_index type);
    ~Pending();
    Pending(const Pending&) = delete;
    Pending& operator=(const Pending&) = delete;
    Analyses& owner_;
  };

  template <class A>
  std::shared_ptr<A> make() {
    if constexpr (std::constructible_from<A, const Model&, Analyses&>) {
      return std::make_shared<A>(*model_, *this);
    } else {
      return std::make_shared<A>(*model_);
    }
  }
  template <class A>
  static constexpr Aspect aspects() {
    if constexpr (requires { A::kDependsOn; }) {
      return A::kDependsOn;
    } else {
      return Aspect::Everything;
    }
  }

  const Model* model_;
  std::map<std::type_index, Entry> entries_;
  std::vector<Request> pending_;
};

PARE_NAMESPACE_END
