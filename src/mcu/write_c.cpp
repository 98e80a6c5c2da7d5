#include "pare/mcu/write_c.hpp"

#include <ATen/ATen.h>

#include <cctype>
#include <filesystem>

#include "core/replace_file.hpp"
#include "mcu/lowering.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

namespace {

// The file's name as a C identifier.
std::string identifier(const std::string& stem) {
  std::string result;
  for (const unsigned char c : stem) result += std::isalnum(c) != 0 ? static_cast<char>(c) : '_';
  if (result.empty() || std::isdigit(static_cast<unsigned char>(result[0])) != 0) result.insert(0, "net_");
  return result;
}

}  // namespace

CSource write_c(const Model& model, const std::string& path) {
  const std::filesystem::path target(path);
  if (target.extension() != ".c") fail("pare.mcu.104", path, "the path of the source must end in .c");
  const at::NoGradGuard no_grad;
  const auto program = Lowering(model).run();
  CSource source;
  source.prefix = identifier(target.stem().string());
  source.header = (target.parent_path() / (source.prefix + ".h")).string();
  source.flash_bytes = constant_bytes(program);
  source.arena_bytes = program.arena;
  const auto scratch = scratch_of(program);
  source.scratch_bytes = scratch.patches + 4 * scratch.sums;
  source.macs = multiply_accumulates(program);
  source.input = program.input.qparams;
  source.output_scale = program.output_scale;
  const auto texts = program_texts(program, source.prefix);
  const auto failed = replace_files({{source.header, [&](std::ostream& stream) { stream << texts.header; }},
                                     {path, [&](std::ostream& stream) { stream << texts.source; }}});
  if (!failed.empty()) fail("pare.mcu.104", failed, "the file cannot be written");
  return source;
}

}  // namespace mcu

PARE_NAMESPACE_END
