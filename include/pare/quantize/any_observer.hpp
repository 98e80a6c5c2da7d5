#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "pare/numerics/observer.hpp"
#include "pare/numerics/weight_observer.hpp"

PARE_NAMESPACE_BEGIN

/// An activation observer of any type, behind one type; copying copies the observer.
class AnyObserver {
 public:
  template <ObserverType O>
  explicit AnyObserver(O observer) : held_(std::make_unique<Held<O>>(std::move(observer))) {}
  AnyObserver(const AnyObserver& other) : held_(other.held_->clone()) {}
  AnyObserver(AnyObserver&&) noexcept = default;
  AnyObserver& operator=(AnyObserver other) noexcept {
    held_ = std::move(other.held_);
    return *this;
  }

  void observe(const at::Tensor& values) { held_->observe(values); }
  [[nodiscard]] bool empty() const { return held_->empty(); }
  [[nodiscard]] Range range(const IntegerGrid& grid) const { return held_->range(grid); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual void observe(const at::Tensor& values) = 0;
    [[nodiscard]] virtual bool empty() const = 0;
    [[nodiscard]] virtual Range range(const IntegerGrid& grid) const = 0;
    [[nodiscard]] virtual std::unique_ptr<Interface> clone() const = 0;
  };
  template <class O>
  struct Held final : Interface {
    explicit Held(O held) : observer(std::move(held)) {}
    void observe(const at::Tensor& values) override { observer.observe(values); }
    [[nodiscard]] bool empty() const override { return observer.empty(); }
    [[nodiscard]] Range range(const IntegerGrid& grid) const override { return observer.range(grid); }
    [[nodiscard]] std::unique_ptr<Interface> clone() const override { return std::make_unique<Held>(observer); }
    O observer;
  };
  std::unique_ptr<Interface> held_;
};

/// A weight observer of any type: `[rows, columns] -> scale [rows]`.
using AnyWeightObserver = std::function<RowQParams(const at::Tensor& rows, const IntegerGrid& grid)>;

PARE_NAMESPACE_END
