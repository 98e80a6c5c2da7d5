#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// An integer that may depend on the sizes a Model is run at: `floor((Σ cᵢ · Πdims) / divisor)`.
///
/// Dims are named by their index in `Graph::dims()`. Capture fits one from the integers seen at several example sizes,
/// so `x.view({x.size(0), -1})` becomes `[batch, -1]`, and a reshape to `B * T` rows becomes `[batch*length, ...]`.
class SymbolicInt {
 public:
  /// One product of dims with its coefficient; no dims is the constant term.
  struct Term {
    std::int64_t coefficient = 0;
    std::vector<std::uint32_t> dims;  ///< sorted, each at most once
    friend bool operator==(const Term&, const Term&) = default;
  };

  /// A plain constant.
  SymbolicInt(std::int64_t constant = 0);  // NOLINT(google-explicit-constructor): integers are operands everywhere
  /// A polynomial over dims. Terms with coefficient 0 are dropped. @pre `divisor > 0`.
  explicit SymbolicInt(std::vector<Term> terms, std::int64_t divisor = 1);
  /// The dim at `index` itself.
  static SymbolicInt dim(std::uint32_t index);

  /// The value at these dims. @param dims one size for every entry of `Graph::dims()`.
  [[nodiscard]] std::int64_t evaluate(std::span<const std::int64_t> dims) const;
  /// The value, when it depends on no dim.
  [[nodiscard]] std::optional<std::int64_t> constant() const;
  [[nodiscard]] bool is_constant() const noexcept { return terms_.empty(); }
  /// `3*batch + 2`, or `(batch*height + 1) / 2`; `names` are `Graph::dims()`.
  [[nodiscard]] std::string text(std::span<const std::string> names) const;

  [[nodiscard]] const std::vector<Term>& terms() const noexcept { return terms_; }
  [[nodiscard]] std::int64_t offset() const noexcept { return offset_; }
  [[nodiscard]] std::int64_t divisor() const noexcept { return divisor_; }

  friend bool operator==(const SymbolicInt&, const SymbolicInt&) = default;

 private:
  std::vector<Term> terms_;  // without the constant term: most integers are constants and allocate nothing
  std::int64_t offset_ = 0;
  std::int64_t divisor_ = 1;
};

PARE_NAMESPACE_END
