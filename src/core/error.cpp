#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

Error::Error(std::string_view id, std::string_view path, std::string_view message)
    : std::runtime_error(path.empty() ? fmt::format("[{}] {}", id, message)
                                      : fmt::format("[{}] {}: {}", id, path, message)),
      id_(id),
      path_(path) {}

PARE_NAMESPACE_END
