#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Where a transformer layer keeps its projections, and how many heads it has.
struct AttentionPaths {
  std::string query = "attention.self.query";  ///< path behind the layer's own
  std::string key = "attention.self.key";
  std::string value = "attention.self.value";
  std::int64_t heads = 12;
  /// The input of the model that is 1 for tokens and 0 for padding, `[N, S]`: padding teaches nothing. Empty: no
  /// padding.
  std::optional<std::size_t> mask = {};
};

PARE_NAMESPACE_END
