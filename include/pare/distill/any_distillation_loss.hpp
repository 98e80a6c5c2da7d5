#pragma once

#include <concepts>
#include <memory>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "pare/distill/layer_map.hpp"
#include "pare/pass/pass.hpp"

PARE_NAMESPACE_BEGIN

/// A loss: any type that makes a scalar of one batch through both networks.
///
///     struct CosineLogits {
///       at::Tensor operator()(const pare::DistillationBatch& batch) const {
///         return 1 - at::cosine_similarity(batch.student.output(), batch.teacher.output()).mean();
///       }
///     };
///
/// Optional members: `void request(FeatureRequest&)` asks for features by module path; `void prepare(const
/// DistillationBatch&)` sees one example batch, without gradients, before the first step; `std::vector<at::Tensor>
/// parameters() const` are trained with the student; `static constexpr std::string_view kName`.
template <class L>
concept DistillationLossType = requires(const L& loss, const DistillationBatch& batch) {
  { loss(batch) } -> std::convertible_to<at::Tensor>;
}
&&std::copy_constructible<L>;

/// Says in our own words what is wrong with a type that is not a loss.
template <class L>
consteval void check_distillation_loss() {
  constexpr bool kCalls = requires(const L& loss, const DistillationBatch& batch) { loss(batch); };
  static_assert(kCalls,
                "pare: this type is not a distillation loss: it needs a public member `at::Tensor operator()(const "
                "pare::DistillationBatch&) const`");
  if constexpr (kCalls)
    static_assert(
        DistillationLossType<L>,
        "pare: operator() of a distillation loss must return at::Tensor, a scalar, and the loss must be copyable");
}

/// A weighted sum of losses, behind one type. Copies are deep: what one training learned stays its own.
///
///     0.9 * pare::KnowledgeDistillation{.temperature = 4.0} + 0.1 * pare::HardTargets{}
class AnyDistillationLoss {
 public:
  template <class L>
  requires(!std::same_as<std::remove_cvref_t<L>, AnyDistillationLoss>)
      AnyDistillationLoss(L&& loss) {  // NOLINT(google-explicit-constructor): a loss is a loss
    using Kept = std::remove_cvref_t<L>;
    check_distillation_loss<Kept>();
    if constexpr (DistillationLossType<Kept>)  // else the assertion above has spoken
      parts_.push_back({1.0, std::make_unique<Holder<Kept>>(std::forward<L>(loss))});
  }
  AnyDistillationLoss(const AnyDistillationLoss& other) {
    for (const auto& part : other.parts_) parts_.push_back({part.weight, part.loss->clone()});
  }
  AnyDistillationLoss(AnyDistillationLoss&&) noexcept = default;
  AnyDistillationLoss& operator=(AnyDistillationLoss other) noexcept {
    parts_ = std::move(other.parts_);
    return *this;
  }
  ~AnyDistillationLoss() = default;

  void scale(double weight) {
    for (auto& part : parts_) part.weight *= weight;
  }
  void append(AnyDistillationLoss other) {
    for (auto& part : other.parts_) parts_.push_back(std::move(part));
  }

  /// One summand on one batch, before its weight.
  struct Term {
    std::string name;
    double weight;
    at::Tensor value;
  };
  [[nodiscard]] std::vector<Term> terms(const DistillationBatch& batch) const {
    std::vector<Term> terms;
    for (const auto& part : parts_) terms.push_back({part.loss->name(), part.weight, part.loss->call(batch)});
    return terms;
  }
  [[nodiscard]] at::Tensor operator()(const DistillationBatch& batch) const {
    at::Tensor sum;
    for (const auto& term : terms(batch)) {
      const auto weighted = term.weight == 1.0 ? term.value : term.value.mul(term.weight);
      sum = sum.defined() ? sum.add(weighted) : weighted;
    }
    return sum;
  }
  void request(FeatureRequest& request) {
    for (auto& part : parts_) part.loss->request(request);
  }
  void prepare(const DistillationBatch& example) {
    for (auto& part : parts_) part.loss->prepare(example);
  }
  [[nodiscard]] std::vector<at::Tensor> parameters() const {
    std::vector<at::Tensor> all;
    for (const auto& part : parts_)
      for (auto& parameter : part.loss->parameters()) all.push_back(std::move(parameter));
    return all;
  }

 private:
  struct Base {
    virtual ~Base() = default;
    [[nodiscard]] virtual std::unique_ptr<Base> clone() const = 0;
    [[nodiscard]] virtual std::string name() const = 0;
    [[nodiscard]] virtual at::Tensor call(const DistillationBatch& batch) const = 0;
    virtual void request(FeatureRequest& request) = 0;
    virtual void prepare(const DistillationBatch& example) = 0;
    [[nodiscard]] virtual std::vector<at::Tensor> parameters() const = 0;
  };
  template <class L>
  struct Holder final : Base {
    explicit Holder(L kept) : loss(std::move(kept)) {}
    [[nodiscard]] std::unique_ptr<Base> clone() const override { return std::make_unique<Holder>(loss); }
    [[nodiscard]] std::string name() const override {
      if constexpr (requires { std::string(L::kName); }) {
        return std::string(L::kName);
      } else {
        return pass_name(typeid(L));
      }
    }
    [[nodiscard]] at::Tensor call(const DistillationBatch& batch) const override { return loss(batch); }
    void request(FeatureRequest& request) override {
      if constexpr (requires { loss.request(request); }) loss.request(request);
    }
    void prepare(const DistillationBatch& example) override {
      if constexpr (requires { loss.prepare(example); }) loss.prepare(example);
    }
    [[nodiscard]] std::vector<at::Tensor> parameters() const override {
      if constexpr (requires { loss.parameters(); }) {
        return loss.parameters();
      } else {
        return {};
      }
    }
    L loss;
  };
  struct Part {
    double weight;
    std::unique_ptr<Base> loss;
  };
  std::vector<Part> parts_;
};

/// A loss times a weight, for types outside `pare`, whose `0.5 * Mine{}` the compiler does not look up here.
template <class L>
[[nodiscard]] AnyDistillationLoss weighted(double weight, L&& loss) {
  AnyDistillationLoss any(std::forward<L>(loss));
  any.scale(weight);
  return any;
}

template <DistillationLossType L>
[[nodiscard]] AnyDistillationLoss operator*(double weight, L loss) {
  return weighted(weight, std::move(loss));
}

template <DistillationLossType A, DistillationLossType B>
[[nodiscard]] AnyDistillationLoss operator+(A a, B b) {
  AnyDistillationLoss sum(std::move(a));
  sum.append(AnyDistillationLoss(std::move(b)));
  return sum;
}

PARE_NAMESPACE_END
