#pragma once

#include <set>
#include <string>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// The processor that this process runs on, and those of its instruction sets that kernels are chosen by.
struct Processor {
  std::string name;                    ///< `unknown processor` where the system does not say
  std::set<std::string> instructions;  ///< as Linux names them; empty where the system does not say
  /// Whether it multiplies bf16; without such instructions bf16 is slower than float32. True where nothing is known.
  [[nodiscard]] bool multiplies_bf16() const;
};

/// Read once.
[[nodiscard]] const Processor& processor();

PARE_NAMESPACE_END
