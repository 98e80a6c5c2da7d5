#pragma once

#include <compare>
#include <cstdint>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// A bit width, `8_bits`.
struct Bits {
  int count = 8;
  friend constexpr auto operator<=>(Bits, Bits) = default;
};

/// A share of a whole, `30_pct`; `fraction` is 0.3.
struct Ratio {
  double fraction = 0.0;
  friend constexpr auto operator<=>(Ratio, Ratio) = default;
};

/// A size in memory, `2_MiB`.
struct Bytes {
  std::uint64_t count = 0;
  friend constexpr auto operator<=>(Bytes, Bytes) = default;
};

/// Quantities as they are written: `using namespace pare::literals;`.
namespace literals {

consteval Bits operator""_bits(unsigned long long count) { return {static_cast<int>(count)}; }
consteval Ratio operator""_pct(unsigned long long percent) { return {static_cast<double>(percent) / 100.0}; }
consteval Ratio operator""_pct(long double percent) { return {static_cast<double>(percent) / 100.0}; }
consteval Bytes operator""_B(unsigned long long count) { return {count}; }
consteval Bytes operator""_KiB(unsigned long long count) { return {count << 10U}; }
consteval Bytes operator""_MiB(unsigned long long count) { return {count << 20U}; }
consteval Bytes operator""_GiB(unsigned long long count) { return {count << 30U}; }

}  // namespace literals

PARE_NAMESPACE_END
