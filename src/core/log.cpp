#include "pare/core/log.hpp"

PARE_NAMESPACE_BEGIN

Log Log::to(std::FILE* stream, Severity threshold) {
  return Log([stream](Severity, std::string_view line) { fmt::print(stream, "pare: {}\n", line); }, threshold);
}

PARE_NAMESPACE_END
