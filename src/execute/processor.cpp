#include "execute/processor.hpp"

#include <fstream>
#include <sstream>

PARE_NAMESPACE_BEGIN

namespace {

Processor read_processor() {
  const std::set<std::string> telling{"avx2",     "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8",
                                      "amx_bf16", "asimd",   "asimddp",     "i8mm",     "bf16"};
  Processor found;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line) && (found.name.empty() || found.instructions.empty());) {
    const auto colon = line.find(':');
    if (colon == std::string::npos || colon + 2 > line.size()) continue;
    const auto value = line.substr(colon + 2);
    if (found.name.empty() && line.starts_with("model name")) found.name = value;
    if (!line.starts_with("flags") && !line.starts_with("Features")) continue;
    std::istringstream flags(value);
    for (std::string flag; flags >> flag;)
      if (telling.contains(flag)) found.instructions.insert(flag);
  }
  if (found.name.empty()) found.name = "unknown processor";
  return found;
}

}  // namespace

bool Processor::multiplies_bf16() const {
  return instructions.empty() || instructions.contains("avx512_bf16") || instructions.contains("amx_bf16") ||
         instructions.contains("bf16");
}

const Processor& processor() {
  static const auto found = read_processor();
  return found;
}

PARE_NAMESPACE_END
